/* Preloaded by the tests: counts the calls that change files whose path begins with SHIM_FOLDER,
 * and kills the process right before the one of number SHIM_KILL_AT. With SHIM_TALLY, the count is
 * written there at exit. With SHIM_ENOSPC_AT, writes from that number on fail as on a full disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long operations;

static int concerns_path(const char *path) {
    const char *folder = getenv("SHIM_FOLDER");
    return folder != NULL && path != NULL && strncmp(path, folder, strlen(folder)) == 0;
}

static int concerns(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return concerns_path(path);
}

/* Returns whether the disk is full now. */
static int happened(void) {
    long number = atomic_fetch_add(&operations, 1) + 1;
    const char *at = getenv("SHIM_KILL_AT");
    if (at != NULL && number == atol(at)) kill(getpid(), SIGKILL);
    const char *full = getenv("SHIM_ENOSPC_AT");
    return full != NULL && number >= atol(full);
}

__attribute__((destructor)) static void tally(void) {
    const char *path = getenv("SHIM_TALLY");
    if (path == NULL) return;
    FILE *file = fopen(path, "w");
    if (file == NULL) return;
    fprintf(file, "%ld", atomic_load(&operations));
    fclose(file);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *data, size_t size) {
    if (concerns(file) && happened()) { errno = ENOSPC; return -1; }
    return NEXT(write)(file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    if (concerns(file) && happened()) { errno = ENOSPC; return -1; }
    return NEXT(pwrite)(file, data, size, offset);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    if (concerns(file) && happened()) { errno = ENOSPC; return -1; }
    return NEXT(pwrite64)(file, data, size, offset);
}

int fsync(int file) {
    if (concerns(file)) happened();
    return NEXT(fsync)(file);
}

int fdatasync(int file) {
    if (concerns(file)) happened();
    return NEXT(fdatasync)(file);
}

int ftruncate(int file, off_t size) {
    if (concerns(file) && happened()) { errno = ENOSPC; return -1; }
    return NEXT(ftruncate)(file, size);
}

int ftruncate64(int file, off64_t size) {
    if (concerns(file) && happened()) { errno = ENOSPC; return -1; }
    return NEXT(ftruncate64)(file, size);
}

int rename(const char *from, const char *to) {
    if (concerns_path(to)) happened();
    return NEXT(rename)(from, to);
}

int unlink(const char *path) {
    if (concerns_path(path)) happened();
    return NEXT(unlink)(path);
}
