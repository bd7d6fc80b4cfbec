/* Preloaded into a process of the tests: counts the calls that change files below one folder, and
 * ends the process, or fails the call, at the n-th. What it counts is everything that SQLite and
 * Python do to make data durable: write, pwrite, writev, fsync, fdatasync, rename, unlink, mkdir
 * and ftruncate; opening and reading change nothing.
 *
 * Armed by the environment when it is loaded, or by a call of shim_arm, which a child made by fork
 * does for itself. Modes:
 *   0  only count
 *   1  SIGKILL in the place of the n-th call
 *   2  as 1, but a write does half of its work first
 *   3  from the n-th call on, whatever needs space fails with ENOSPC
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, TEAR, FULL };

static char root[PATH_MAX];
static size_t root_length;
static atomic_long calls;
static long limit;
static int mode;

/* What each call was: w(rite), s(ync), t(runcate), r(ename), u(nlink), m(kdir). */
#define KEPT 100000
static char kinds[KEPT + 1];

void shim_arm(const char *folder, long nth, int what) {
    mode = COUNT;
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    limit = nth;
    atomic_store(&calls, 0);
    memset(kinds, 0, sizeof kinds);
    mode = what;
}

long shim_calls(void) { return atomic_load(&calls); }

const char *shim_kinds(void) { return kinds; }

__attribute__((constructor)) static void load(void) {
    const char *folder = getenv("SHIM_FOLDER");
    const char *nth = getenv("SHIM_NTH");
    const char *what = getenv("SHIM_MODE");
    if (folder && nth && what) shim_arm(folder, atol(nth), atoi(what));
}

static int below(const char *path) {
    return root_length && strncmp(path, root, root_length) == 0;
}

static int file_below(int file) {
    char link[64], path[PATH_MAX];
    ssize_t length;
    if (!root_length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return below(path);
}

static int path_below(int folder, const char *path) {
    char base[PATH_MAX], link[64];
    ssize_t length;
    if (!root_length) return 0;
    if (path[0] == '/') return below(path);
    if (folder == AT_FDCWD) return getcwd(base, sizeof base) != NULL && below(base);
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    length = readlink(link, base, sizeof base - 1);
    if (length <= 0) return 0;
    base[length] = 0;
    return below(base);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Counts one call; returns 1 when it has to fail for want of space, 2 when it is to be torn. */
static int turn(char kind) {
    long number = atomic_fetch_add(&calls, 1) + 1;
    int needs_space = kind == 'w' || kind == 'm';
    if (number <= KEPT) kinds[number - 1] = kind;
    if (mode == FULL) return needs_space && number >= limit;
    if (number != limit || mode == COUNT) return 0;
    if (mode == TEAR && needs_space) return 2;
    die();
    return 0;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define NO_SPACE do { errno = ENOSPC; return -1; } while (0)

ssize_t write(int file, const void *data, size_t size) {
    REAL(write);
    if (file_below(file)) {
        int what = turn('w');
        if (what == 1) NO_SPACE;
        if (what == 2) { real(file, data, size / 2); die(); }
    }
    return real(file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t place) {
    REAL(pwrite);
    if (file_below(file)) {
        int what = turn('w');
        if (what == 1) NO_SPACE;
        if (what == 2) { real(file, data, size / 2, place); die(); }
    }
    return real(file, data, size, place);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t place) {
    REAL(pwrite64);
    if (file_below(file)) {
        int what = turn('w');
        if (what == 1) NO_SPACE;
        if (what == 2) { real(file, data, size / 2, place); die(); }
    }
    return real(file, data, size, place);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(writev);
    if (file_below(file)) {
        int what = turn('w');
        if (what == 1) NO_SPACE;
        if (what == 2) { real(file, parts, count / 2); die(); }
    }
    return real(file, parts, count);
}

int fsync(int file) {
    REAL(fsync);
    if (file_below(file)) turn('s');
    return real(file);
}

int fdatasync(int file) {
    REAL(fdatasync);
    if (file_below(file)) turn('s');
    return real(file);
}

int ftruncate(int file, off_t size) {
    REAL(ftruncate);
    if (file_below(file)) turn('t');
    return real(file, size);
}

int ftruncate64(int file, off64_t size) {
    REAL(ftruncate64);
    if (file_below(file)) turn('t');
    return real(file, size);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    if (path_below(AT_FDCWD, to)) turn('r');
    return real(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    REAL(renameat);
    if (path_below(to_folder, to)) turn('r');
    return real(from_folder, from, to_folder, to);
}

int unlink(const char *path) {
    REAL(unlink);
    if (path_below(AT_FDCWD, path)) turn('u');
    return real(path);
}

int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    if (path_below(folder, path)) turn('u');
    return real(folder, path, flags);
}

int mkdir(const char *path, mode_t rights) {
    REAL(mkdir);
    if (path_below(AT_FDCWD, path) && turn('m') == 1) NO_SPACE;
    return real(path, rights);
}
