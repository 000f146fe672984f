/* build LOG NAME SECONDS: a build. It appends "+ NAME NS" to LOG when it starts, and "- NAME NS" at its end, in ns
   of CLOCK_MONOTONIC. One that is killed leaves the first of them: whoever kills it knows when that was. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void note(int log, char what, const char *name)
{
    struct timespec t;
    char line[256];
    clock_gettime(CLOCK_MONOTONIC, &t);
    int size = snprintf(line, sizeof line, "%c %s %lld\n", what, name, t.tv_sec * 1000000000LL + t.tv_nsec);
    if (write(log, line, size) != size)
        _exit(125);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 125;
    int log = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0)
        return 125;
    note(log, '+', argv[2]);
    double seconds = atof(argv[3]);
    struct timespec t = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
    note(log, '-', argv[2]);
    return 0;
}
