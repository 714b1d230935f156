/* A disk that fails when told: preloaded into a process, it counts the calls that change files
 * under one folder and, at the n-th, ends the process or refuses the call.
 *
 * fsync costs nothing here: a process that is killed loses nothing that it has written, and power
 * cuts are not what is tried. That it is called is still counted, and may still fail.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { COUNT = 0, KILL = 1, TORN = 2, FAIL = 3, FULL = 4 };

static char folder[4096];
static size_t folder_length;
static int mode;
static long when, calls;
static int refusal;

/* mode: COUNT only counts; KILL ends the process before the n-th call; TORN after half of the
 * n-th, if it writes; FAIL refuses the n-th; FULL refuses it and whatever would need room after. */
void disk_arm(const char *path, int how, long n, int error) {
    strncpy(folder, path, sizeof folder - 1);
    folder_length = strlen(folder);
    mode = how;
    when = n;
    refusal = error;
    calls = 0;
}

/* Enough room again; counting goes on. */
void disk_relieve(void) { mode = COUNT; }

long disk_calls(void) { return calls; }

static int ours(const char *path) {
    return folder_length && path && strncmp(path, folder, folder_length) == 0;
}

static int ours_open(int descriptor) {
    char link[64], path[4096];
    if (!folder_length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return ours(path);
}

/* Whether the call may go on; `half` where it is to be torn. */
static int reach(int needs_room, int *half) {
    calls++;
    if (mode == FULL && calls >= when && needs_room) { errno = refusal; return 0; }
    if (calls != when) return 1;
    if (mode == KILL) kill(getpid(), SIGKILL);
    if (mode == TORN) { if (half) *half = 1; else kill(getpid(), SIGKILL); }
    if (mode == FAIL) { errno = refusal; return 0; }
    return 1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    int half = 0;
    if (ours_open(fd)) {
        if (!reach(1, &half)) return -1;
        if (half) { real(fd, data, size / 2); kill(getpid(), SIGKILL); }
    }
    return real(fd, data, size);
}

#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) { \
        REAL(ssize_t, #name, int, const void *, size_t, offset_type); \
        int half = 0; \
        if (ours_open(fd)) { \
            if (!reach(1, &half)) return -1; \
            if (half) { real(fd, data, size / 2, offset); kill(getpid(), SIGKILL); } \
        } \
        return real(fd, data, size, offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

int fsync(int fd) {
    REAL(int, "fsync", int);
    if (ours_open(fd)) return reach(0, 0) ? 0 : -1;
    return real(fd);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    if (ours_open(fd)) return reach(0, 0) ? 0 : -1;
    return real(fd);
}

#define TRUNCATE(name, offset_type) \
    int name(int fd, offset_type size) { \
        REAL(int, #name, int, offset_type); \
        if (ours_open(fd) && !reach(0, 0)) return -1; \
        return real(fd, size); \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int rename(const char *old, const char *new) {
    REAL(int, "rename", const char *, const char *);
    if (ours(new) && !reach(0, 0)) return -1;
    return real(old, new);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    if (ours(path) && !reach(0, 0)) return -1;
    return real(path);
}

int mkdir(const char *path, mode_t permissions) {
    REAL(int, "mkdir", const char *, mode_t);
    if (ours(path) && !reach(1, 0)) return -1;
    return real(path, permissions);
}

/* Only calls that may make a file. */
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t permissions = (flags & O_CREAT) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        if ((flags & O_CREAT) && ours(path) && !reach(1, 0)) return -1; \
        return real(path, flags, permissions); \
    }
OPEN(open)
OPEN(open64)
