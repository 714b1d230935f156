/* A disk that fails when told: preloaded into a process, it counts the calls that change files
 * under one folder and, at the n-th, ends the process, refuses the call, or cuts the power.
 *
 * A process that is killed loses nothing that it has written, and fsync costs nothing here. A
 * power cut undoes what was not synced: the bytes of each file since its last fsync, and the names
 * that were made, moved and removed in each folder since that folder's. Files are cut back from an
 * image taken at their first change after a sync. SQLite's -shm is left as it is: it is memory
 * shared between processes, and whoever opens a database first empties it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { COUNT = 0, KILL = 1, TORN = 2, FAIL = 3, FULL = 4, POWER = 5, LATER = 6 };
enum { MAX_FILES = 512, MAX_CHANGES = 4096, SECTOR = 512 };

static char folder[4096];
static size_t folder_length;
static int mode;
static long when, calls;
static int refusal;
static uint64_t seed;
/* Held over each counted call: at the cut nothing is half done. */
static pthread_mutex_t turn = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

/* What a file that was changed since its last sync held then. `file` stays open to the end: to
 * close it would drop SQLite's locks on it, and an inode in use is not given to another file. */
static struct image {
    dev_t device;
    ino_t inode;
    int file, dirty;
    off_t size;
    char *data;
} images[MAX_FILES];
static int files;

/* A name that was changed since its folder's last sync. path: in that folder. kept: a link to what
 * had the name before, or empty. */
static struct change {
    enum { MADE, MOVED, REMOVED, FOLDER_MADE, FOLDER_REMOVED } kind;
    char *path, *from, *kept;
} changes[MAX_CHANGES];
static int changed, kept_files;

static void give_up(const char *why) {
    fprintf(stderr, "disk.c: %s\n", why);
    abort();
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int really_open(const char *path, int flags) {
    REAL(int, "open64", const char *, int, ...);
    return real(path, flags);
}

static int really_rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return real(from, to);
}

static int really_unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return real(path);
}

static int really_mkdir(const char *path) {
    REAL(int, "mkdir", const char *, mode_t);
    return real(path, 0700);
}

static ssize_t really_pwrite(int file, const void *data, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return real(file, data, size, offset);
}

static int really_truncate(int file, off_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    return real(file, size);
}

/* mode: COUNT only counts; KILL ends the process before the n-th call; TORN after half of the
 * n-th, if it writes; FAIL refuses the n-th; FULL refuses it and whatever would need room after;
 * POWER cuts the power before the n-th; LATER refuses it with EIO, and disk_cut cuts the power.
 * choice: the errno of a refusal. Of a power cut, 0 if all is lost that was not synced; else the
 * seed by which some of it is not: any sectors of a file, and the first changes of names. */
void disk_arm(const char *path, int how, long n, int choice) {
    strncpy(folder, path, sizeof folder - 1);
    folder_length = strlen(folder);
    mode = how;
    when = n;
    refusal = choice;
    seed = (uint64_t)choice;
    calls = 0;
    if (mode >= POWER) {
        char lost[5000];
        snprintf(lost, sizeof lost, "%s.lost", folder);
        really_mkdir(lost);
    }
}

/* Enough room again; counting goes on. */
void disk_relieve(void) { if (mode < POWER) mode = COUNT; }

long disk_calls(void) { return calls; }

static int ours(const char *path) {
    return folder_length && path && strncmp(path, folder, folder_length) == 0 &&
           (path[folder_length] == '/' || !path[folder_length]);
}

static int path_of(int descriptor, char *path, size_t room) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, room - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static int ours_open(int descriptor) {
    char path[4096];
    return folder_length && path_of(descriptor, path, sizeof path) && ours(path);
}

static int is_shared_memory(const char *path) {
    size_t length = strlen(path);
    return length > 4 && strcmp(path + length - 4, "-shm") == 0;
}

/* Before a file's bytes change. */
static void remember(const char *path) {
    if (mode < POWER || is_shared_memory(path)) return;
    struct stat now;
    if (stat(path, &now)) return;
    struct image *image = images;
    while (image < images + files && (image->device != now.st_dev || image->inode != now.st_ino))
        image++;
    if (image == images + files) {
        if (++files > MAX_FILES) give_up("too many files");
        image->device = now.st_dev;
        image->inode = now.st_ino;
        image->file = really_open(path, O_RDWR | O_CLOEXEC);
        if (image->file < 0) give_up("a file that cannot be opened twice");
    }
    if (image->dirty) return;
    image->dirty = 1;
    image->size = now.st_size;
    image->data = malloc(now.st_size + 1);
    if (pread(image->file, image->data, image->size, 0) != image->size) give_up("cannot read");
}

static void remember_open(int descriptor) {
    char path[4096], link[64];
    if (!path_of(descriptor, path, sizeof path) || is_shared_memory(path)) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor); /* its name may be gone */
    remember(link);
}

static int is_in(const char *path, const char *where) {
    size_t length = strrchr(path, '/') - path;
    return strlen(where) == length && strncmp(path, where, length) == 0;
}

static void settled(int descriptor) {
    struct stat now;
    char path[4096];
    if (mode < POWER || fstat(descriptor, &now)) return;
    for (struct image *image = images; image < images + files; image++)
        if (image->dirty && image->device == now.st_dev && image->inode == now.st_ino) {
            image->dirty = 0;
            free(image->data);
        }
    if (!S_ISDIR(now.st_mode) || !path_of(descriptor, path, sizeof path)) return;
    int left = 0;
    for (int i = 0; i < changed; i++)
        if (!is_in(changes[i].path, path)) changes[left++] = changes[i];
    changed = left;
}

static void note_change(int kind, const char *path, const char *from, const char *kept) {
    if (mode < POWER || is_shared_memory(path)) return;
    if (changed == MAX_CHANGES) give_up("too many names");
    changes[changed++] = (struct change){kind, strdup(path), strdup(from), strdup(kept)};
}

/* A second name, outside the folder, for what is about to lose this one. */
static void keep(const char *path, char *kept, size_t room) {
    *kept = 0;
    if (mode < POWER || access(path, F_OK)) return;
    snprintf(kept, room, "%s.lost/%d", folder, kept_files++);
    if (link(path, kept)) give_up("cannot keep a file");
}

static uint64_t chance(uint64_t of) {
    uint64_t z = seed * 0x9E3779B97F4A7C15u + of * 0xD1B54A32D192ED03u + 1;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Sector by sector the file is as it was synced, or as it was written since. */
static void cut_back(struct image *image, int number) {
    struct stat now;
    if (fstat(image->file, &now)) give_up("cannot look at a file");
    off_t size = image->size, end = now.st_size > size ? now.st_size : size;
    for (off_t at = 0; at < end; at += SECTOR) {
        off_t next = at + SECTOR;
        int whole = next <= now.st_size || now.st_size >= image->size;
        if (seed && whole && chance(((uint64_t)number << 32) + at / SECTOR) & 1) {
            if (next > size) size = next < now.st_size ? next : now.st_size;
            continue;
        }
        off_t had = image->size - at;
        char sector[SECTOR] = {0};
        if (had > 0) memcpy(sector, image->data + at, had < SECTOR ? had : SECTOR);
        really_pwrite(image->file, sector, SECTOR, at);
    }
    if (seed && now.st_size < size && chance(number) & 1) size = now.st_size; /* cut short already */
    if (really_truncate(image->file, size)) give_up("cannot cut a file");
}

static void take_back(struct change *change) {
    char away[5000];
    switch (change->kind) {
    case MADE: really_unlink(change->path); break;
    case MOVED: really_rename(change->path, change->from); break;
    case REMOVED: break;
    case FOLDER_MADE: /* with all that is in it, synced or not */
        snprintf(away, sizeof away, "%s.lost/%d", folder, kept_files++);
        really_rename(change->path, away);
        break;
    case FOLDER_REMOVED: really_mkdir(change->path); break;
    }
    if (*change->kept) really_rename(change->kept, change->path);
}

/* Everything that no sync has made safe is lost. */
static void cut_power(void) {
    for (int i = 0; i < files; i++)
        if (images[i].dirty) cut_back(&images[i], i);
    int survive = seed ? (int)(chance(~0u) % (changed + 1)) : 0;
    for (int i = changed - 1; i >= survive; i--) take_back(&changes[i]);
    kill(getpid(), SIGKILL);
}

/* Whether the call may go on; `half` where it is to be torn. */
static int reach(int needs_room, int *half) {
    calls++;
    if (mode == FULL && calls >= when && needs_room) { errno = refusal; return 0; }
    if (calls != when) return 1;
    if (mode == KILL) kill(getpid(), SIGKILL);
    if (mode == TORN) { if (half) *half = 1; else kill(getpid(), SIGKILL); }
    if (mode == FAIL) { errno = refusal; return 0; }
    if (mode == POWER) cut_power();
    if (mode == LATER) { errno = EIO; return 0; }
    return 1;
}

/* The power is cut now, and not at a call. */
void disk_cut(void) {
    pthread_mutex_lock(&turn);
    cut_power();
}

static int take_turn(void) { return pthread_mutex_lock(&turn); }

static void end_turn(const int *unused) {
    (void)unused;
    int error = errno;
    pthread_mutex_unlock(&turn);
    errno = error;
}

#define IN_TURN __attribute__((cleanup(end_turn), unused)) int held = take_turn()

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!ours_open(fd)) return real(fd, data, size);
    IN_TURN;
    int half = 0;
    if (!reach(1, &half)) return -1;
    if (half) { real(fd, data, size / 2); kill(getpid(), SIGKILL); }
    remember_open(fd);
    return real(fd, data, size);
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) { \
        REAL(ssize_t, #name, int, const void *, size_t, offset_type); \
        if (!ours_open(fd)) return real(fd, data, size, offset); \
        IN_TURN; \
        int half = 0; \
        if (!reach(1, &half)) return -1; \
        if (half) { real(fd, data, size / 2, offset); kill(getpid(), SIGKILL); } \
        remember_open(fd); \
        return real(fd, data, size, offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define SENDFILE(name, offset_type) \
    ssize_t name(int to, int from, offset_type *offset, size_t size) { \
        REAL(ssize_t, #name, int, int, offset_type *, size_t); \
        if (!ours_open(to)) return real(to, from, offset, size); \
        IN_TURN; \
        if (!reach(1, 0)) return -1; \
        remember_open(to); \
        return real(to, from, offset, size); \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

#define SYNC(name) \
    int name(int fd) { \
        REAL(int, #name, int); \
        if (!ours_open(fd)) return real(fd); \
        IN_TURN; \
        if (!reach(0, 0)) return -1; \
        settled(fd); \
        return 0; \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name, offset_type) \
    int name(int fd, offset_type size) { \
        REAL(int, #name, int, offset_type); \
        if (!ours_open(fd)) return real(fd, size); \
        IN_TURN; \
        if (!reach(0, 0)) return -1; \
        remember_open(fd); \
        return real(fd, size); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int rename(const char *from, const char *to) {
    if (!ours(to)) return really_rename(from, to);
    IN_TURN;
    char kept[5000];
    if (!reach(0, 0)) return -1;
    keep(to, kept, sizeof kept);
    int failed = really_rename(from, to);
    if (!failed) note_change(MOVED, to, from, kept);
    return failed;
}

static int remove_file(const char *path) {
    IN_TURN;
    char kept[5000];
    if (!reach(0, 0)) return -1;
    keep(path, kept, sizeof kept);
    int failed = really_unlink(path);
    if (!failed) note_change(REMOVED, path, "", kept);
    return failed;
}

int unlink(const char *path) { return ours(path) ? remove_file(path) : really_unlink(path); }

int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    if (!ours(path)) return real(path);
    IN_TURN;
    if (!reach(0, 0)) return -1;
    int failed = real(path);
    if (!failed) note_change(FOLDER_REMOVED, path, "", "");
    return failed;
}

int unlinkat(int where, const char *name, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    char path[4096];
    if (*name == '/' || where == AT_FDCWD) *path = 0;
    else if (!path_of(where, path, sizeof path)) return -1;
    else strcat(path, "/");
    if (strlen(path) + strlen(name) >= sizeof path) give_up("a path that is too long");
    strcat(path, name);
    if (!ours(path)) return real(where, name, flags);
    return flags & AT_REMOVEDIR ? rmdir(path) : remove_file(path);
}

int mkdir(const char *path, mode_t permissions) {
    REAL(int, "mkdir", const char *, mode_t);
    if (!ours(path)) return real(path, permissions);
    IN_TURN;
    if (!reach(1, 0)) return -1;
    int failed = real(path, permissions);
    if (!failed) note_change(FOLDER_MADE, path, "", "");
    return failed;
}

/* Only calls that may make a file, or empty it. */
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t permissions = (flags & O_CREAT) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        if (!(flags & (O_CREAT | O_TRUNC)) || !ours(path)) return real(path, flags, permissions); \
        IN_TURN; \
        if (!reach(1, 0)) return -1; \
        int there = !access(path, F_OK); \
        if (there && (flags & O_TRUNC)) remember(path); \
        int file = real(path, flags, permissions); \
        if (!there && file >= 0) note_change(MADE, path, "", ""); \
        return file; \
    }
OPEN(open)
OPEN(open64)
