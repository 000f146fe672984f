/* job TABLE BUILD MS [busy]: a job of MS milliseconds of the build with that number, asleep or (busy) at work.
   rustc-job RUSTC ARGUMENTS...: the same as a stand-in for rustc (RUSTC_WRAPPER), with TABLE, BUILD and MS from
   $JOB_TABLE, $JOB_BUILD and $JOB_MS; what asks no crate to be compiled goes to the real one.

   A job takes the next entry of the table, which all jobs have mapped, and marks its start and its end there, in
   ns of CLOCK_MONOTONIC, the start before and the end after its work. A job that is killed leaves no end; whoever
   has killed it knows when. `table.py` reads it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct entry {
    _Atomic int64_t start, end;
    int32_t pid, build;
    int64_t unused;
};

struct table {
    _Atomic int64_t next, most; /* entries in use; room for so many */
    int64_t unused[2];
    struct entry entries[];
};

enum { FAILED = 125 };

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int fail(const char *what)
{
    perror(what);
    return FAILED;
}

static int run(const char *path, int build, long ms, int busy)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    struct stat about;
    struct table *table;
    int64_t at;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) < 0)
        return fail(path);
    table = mmap(NULL, about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (table == MAP_FAILED)
        return fail(path);
    at = atomic_fetch_add(&table->next, 1);
    if (at >= table->most)
        return fail("the table is full");
    table->entries[at].pid = getpid();
    table->entries[at].build = build;
    atomic_store(&table->entries[at].start, clock_ns(CLOCK_MONOTONIC));
    if (busy) {
        volatile unsigned long work = 0;
        while (clock_ns(CLOCK_PROCESS_CPUTIME_ID) < ms * 1000000LL)
            for (int i = 0; i < 20000; i++)
                work += i;
    } else
        while (nanosleep(&t, &t) < 0 && errno == EINTR)
            ;
    atomic_store(&table->entries[at].end, clock_ns(CLOCK_MONOTONIC));
    return 0;
}

/* The value of the argument `name`, which follows as a word of its own or behind "="; "" if there is none. */
static const char *option(char **argv, const char *name)
{
    size_t length = strlen(name);
    for (; *argv; argv++) {
        if (strcmp(*argv, name) == 0 && argv[1])
            return argv[1];
        if (strncmp(*argv, name, length) == 0 && (*argv)[length] == '=')
            return *argv + length + 1;
    }
    return "";
}

static int touch(const char *directory, const char *prefix, const char *crate, const char *more, const char *suffix)
{
    char path[4096];
    int fd;
    snprintf(path, sizeof path, "%s/%s%s%s%s", directory, prefix, crate, more, suffix);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd >= 0 && strcmp(suffix, ".d") == 0)
        dprintf(fd, "%s:\n", path);
    return fd < 0 ? fail(path) : close(fd);
}

/* Leave what cargo looks for: the library, its metadata and the list of what it depends on. */
static int compile(char **argv)
{
    const char *crate = option(argv, "--crate-name"), *to = option(argv, "--out-dir"), *more = "";
    int status;
    for (char **each = argv; *each; each++)
        if (strncmp(*each, "extra-filename=", 15) == 0)
            more = *each + 15;
    status = run(getenv("JOB_TABLE"), atoi(getenv("JOB_BUILD")), atol(getenv("JOB_MS")), 0);
    if (status == 0)
        status = touch(to, "", crate, more, ".d") || touch(to, "lib", crate, more, ".rmeta") ||
                 touch(to, "lib", crate, more, ".rlib");
    return status;
}

int main(int argc, char **argv)
{
    const char *name = strrchr(argv[0], '/');
    if (strcmp(name ? name + 1 : argv[0], "rustc-job") == 0 && argc > 1) {
        const char *crate = option(argv, "--crate-name");
        if (*crate && strcmp(crate, "___") != 0 && getenv("JOB_TABLE") && getenv("JOB_BUILD") && getenv("JOB_MS"))
            return compile(argv);
        execvp(argv[1], argv + 1);
        return fail(argv[1]);
    }
    if (argc < 4)
        return FAILED;
    return run(argv[1], atoi(argv[2]), atol(argv[3]), argc > 4);
}
