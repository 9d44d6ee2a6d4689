/* Preloaded into a program that writes files: below FAULTY_DISK nothing more can be written while there is a file
 * FAULTY_SWITCH.full (what is there can be overwritten), nothing at all while there is FAULTY_SWITCH.dead, and the next
 * fsync fails, once, if there is FAULTY_SWITCH.fsync. Each failure is noted: FAULTY_SWITCH.failed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The path of a switch. */
static const char *at(char *path, const char *what) {
    const char *stem = getenv("FAULTY_SWITCH");
    if (stem == NULL || snprintf(path, PATH_MAX, "%s.%s", stem, what) >= PATH_MAX)
        return NULL;
    return path;
}

static int is_on(const char *what) {
    char path[PATH_MAX];
    return at(path, what) != NULL && access(path, F_OK) == 0;
}

static int fail(int error) {
    char path[PATH_MAX];
    if (at(path, "failed") != NULL) {
        int noted = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        if (noted >= 0)
            close(noted);
    }
    errno = error;
    return 1;
}

static int is_on_the_disk(int fd) {
    const char *folder = getenv("FAULTY_DISK");
    char link[64], path[PATH_MAX];
    if (folder == NULL)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = '\0';
    return strncmp(path, folder, strlen(folder)) == 0;
}

/* Whether a file may not be written up to here; a negative end means the end of the file. */
static int is_full(int fd, off_t end) {
    int saved = errno, dead = is_on("dead");
    if ((dead || is_on("full")) && is_on_the_disk(fd)) {
        struct stat found;
        if (dead || end < 0 || (fstat(fd, &found) == 0 && end > found.st_size))
            return fail(ENOSPC);
    }
    errno = saved;
    return 0;
}

/* Where the next write ends. */
static off_t end_of(int fd, size_t count) {
    int flags = fcntl(fd, F_GETFL);
    off_t begin = flags >= 0 && (flags & O_APPEND) ? -1 : lseek(fd, 0, SEEK_CUR);
    return begin < 0 ? -1 : begin + (off_t)count;
}

static size_t total(const struct iovec *parts, int count) {
    size_t bytes = 0;
    for (int part = 0; part < count; part++)
        bytes += parts[part].iov_len;
    return bytes;
}

/* Whoever removes the switch is the one that fails. */
static int does_not_last(int fd) {
    int saved = errno;
    char path[PATH_MAX];
    if (is_on("fsync") && is_on_the_disk(fd) && at(path, "fsync") != NULL && unlink(path) == 0)
        return fail(EIO);
    errno = saved;
    return 0;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    return is_full(fd, end_of(fd, count)) ? -1 : REAL(write)(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return is_full(fd, end_of(fd, total(parts, count))) ? -1 : REAL(writev)(fd, parts, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return is_full(fd, offset + (off_t)count) ? -1 : REAL(pwrite)(fd, bytes, count, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    return is_full(fd, offset + (off_t)count) ? -1 : REAL(pwrite64)(fd, bytes, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return is_full(fd, offset + (off_t)total(parts, count)) ? -1 : REAL(pwritev)(fd, parts, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return is_full(fd, offset + (off_t)total(parts, count)) ? -1 : REAL(pwritev64)(fd, parts, count, offset);
}

int ftruncate(int fd, off_t length) {
    return length > 0 && is_full(fd, length) ? -1 : REAL(ftruncate)(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    return length > 0 && is_full(fd, length) ? -1 : REAL(ftruncate64)(fd, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
    return is_full(fd, offset + length) ? -1 : REAL(fallocate)(fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    return is_full(fd, offset + length) ? -1 : REAL(fallocate64)(fd, mode, offset, length);
}

/* These two return the error. */
int posix_fallocate(int fd, off_t offset, off_t length) {
    return is_full(fd, offset + length) ? ENOSPC : REAL(posix_fallocate)(fd, offset, length);
}

int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    return is_full(fd, offset + length) ? ENOSPC : REAL(posix_fallocate64)(fd, offset, length);
}

int fsync(int fd) {
    return does_not_last(fd) ? -1 : REAL(fsync)(fd);
}

int fdatasync(int fd) {
    return does_not_last(fd) ? -1 : REAL(fdatasync)(fd);
}
