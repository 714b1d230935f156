// Verifies what our log publishes with golang.org/x/mod/sumdb, which knows nothing of us.
//
// Reads one JSON document from stdin (see Asked), checks every part of it that is there, and exits
// with 0, or with 1 and the reason on stderr. From C2SP it knows the three lines of a checkpoint,
// the message of cosignature/v1, and that a tile's path lacks the height that sumdb's has.
package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type Asked struct {
	Note        []byte   // a checkpoint
	Log         string   // the log's verifier key
	Witnesses   []string // verifier keys of type 0x04, each of which must have cosigned
	Inclusion   *Inclusion
	Consistency *Consistency
	Folder      string // with the log's tiles
	Index       int64  // of the entry to be proved from the tiles
	Entry       []byte
	Old         int64 // size of the older tree to be proved from the tiles
	OldRoot     []byte
}

type Inclusion struct {
	Index  int64
	Entry  []byte
	Hashes [][]byte
}

type Consistency struct {
	Old    int64
	Root   []byte
	Hashes [][]byte
}

func main() {
	if err := verify(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func verify() error {
	var asked Asked
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return err
	}
	log, err := note.NewVerifier(asked.Log)
	if err != nil {
		return err
	}
	known := []note.Verifier{log}
	for _, vkey := range asked.Witnesses {
		witness, err := newCosigner(vkey)
		if err != nil {
			return err
		}
		known = append(known, witness)
	}
	opened, err := note.Open(asked.Note, note.VerifierList(known...))
	if err != nil {
		return err
	}
	if len(opened.Sigs) != len(known) {
		return fmt.Errorf("%d of %d keys have signed", len(opened.Sigs), len(known))
	}
	tree, err := parseCheckpoint(opened.Text, log.Name())
	if err != nil {
		return err
	}
	if p := asked.Inclusion; p != nil {
		hashes, err := toHashes(p.Hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(hashes, tree.N, tree.Hash, p.Index, tlog.RecordHash(p.Entry)); err != nil {
			return err
		}
	}
	if p := asked.Consistency; p != nil {
		hashes, err := toHashes(p.Hashes)
		if err != nil {
			return err
		}
		old, err := toHash(p.Root)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(hashes, tree.N, tree.Hash, p.Old, old); err != nil {
			return err
		}
	}
	if asked.Folder != "" {
		return verifyTiles(asked, tree)
	}
	return nil
}

// verifyTiles makes both proofs from the tiles, which TileHashReader checks against the tree.
func verifyTiles(asked Asked, tree tlog.Tree) error {
	reader := tlog.TileHashReader(tree, folder(asked.Folder))
	record, err := tlog.ProveRecord(tree.N, asked.Index, reader)
	if err != nil {
		return err
	}
	if err := tlog.CheckRecord(record, tree.N, tree.Hash, asked.Index, tlog.RecordHash(asked.Entry)); err != nil {
		return err
	}
	consistency, err := tlog.ProveTree(tree.N, asked.Old, reader)
	if err != nil {
		return err
	}
	old, err := toHash(asked.OldRoot)
	if err != nil {
		return err
	}
	return tlog.CheckTree(consistency, tree.N, tree.Hash, asked.Old, old)
}

type folder string

func (folder) Height() int                       { return 8 }
func (folder) SaveTiles([]tlog.Tile, [][]byte)   {}
func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(string(f), filepath.FromSlash(path)))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func parseCheckpoint(text, origin string) (tlog.Tree, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] != origin {
		return tlog.Tree{}, fmt.Errorf("not a checkpoint of %s", origin)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// cosigner verifies C2SP cosignature/v1 lines, which sumdb's note package does not know.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func newCosigner(vkey string) (note.Verifier, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	id, encoded, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) != 33 || key[0] != 0x04 {
		return nil, fmt.Errorf("%s is not a key for Ed25519 cosignatures", name)
	}
	sum := sha256.Sum256(append([]byte(name+"\n"), key...))
	hash := binary.BigEndian.Uint32(sum[:])
	if stated, err := strconv.ParseUint(id, 16, 32); err != nil || uint32(stated) != hash {
		return nil, fmt.Errorf("%s has the wrong key id", name)
	}
	return &cosigner{name, hash, key[1:]}, nil
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.hash }
func (c *cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	time := binary.BigEndian.Uint64(sig)
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s", time, msg)
	return ed25519.Verify(c.key, []byte(signed), sig[8:])
}

func toHash(raw []byte) (tlog.Hash, error) {
	var hash tlog.Hash
	if len(raw) != tlog.HashSize {
		return hash, fmt.Errorf("a hash of %d bytes", len(raw))
	}
	copy(hash[:], raw)
	return hash, nil
}

func toHashes(raw [][]byte) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, one := range raw {
		hash, err := toHash(one)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hash)
	}
	return hashes, nil
}
