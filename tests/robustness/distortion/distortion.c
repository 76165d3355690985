/* A library that a program is started with (LD_PRELOAD): a test lets its fsync take long and fail, while it runs.
 *
 * DISTORTION names a file of three 64-bit integers that the test writes to: nanoseconds that the wall clock is ahead
 * (not for this library), the errno that fsync and fdatasync fail with (0: they work), milliseconds that they take.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static const volatile int64_t nothing[3];
static const volatile int64_t *distortion = nothing;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("DISTORTION");
    int file = path ? open(path, O_RDONLY) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof nothing, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED)
        distortion = page;
    if (file >= 0)
        close(file);
}

static int synced(long call, int file) {
    if (distortion[2])
        usleep(distortion[2] * 1000);
    if (distortion[1]) {
        errno = (int)distortion[1];
        return -1;
    }
    return (int)syscall(call, file);
}

int fsync(int file) { return synced(SYS_fsync, file); }
int fdatasync(int file) { return synced(SYS_fdatasync, file); }
