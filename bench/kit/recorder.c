/* recorder LOG NAME SECONDS [FIFO]: a build of SECONDS. With FIFO it first reads that to its end, which is
   when some other process has closed it.
   recorder LOG NAME -- COMMAND...: COMMAND, whose exit status or death by a signal is passed on.

   Either appends "NAME START END" to LOG, in ns of CLOCK_MONOTONIC. The clock is read before anything else
   and after all else: no recorded span is shorter than the real one. In C, so that its own start costs less
   than a millisecond. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FAILED = 125 };

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void hold(const char *text, const char *fifo)
{
    double seconds = atof(text);
    struct timespec t = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    char byte;
    if (fifo) {
        int gate = open(fifo, O_RDONLY);
        while (read(gate, &byte, 1) > 0)
            ;
    }
    nanosleep(&t, NULL);
}

static int run(char **command)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        execvp(command[0], command);
        perror("recorder");
        _exit(127);
    }
    if (pid < 0)
        return FAILED << 8;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return FAILED << 8;
    return status;
}

int main(int argc, char **argv)
{
    long long start = now();
    char line[256];
    int status = 0, fd, size;
    if (argc < 4)
        return FAILED;
    if (argc > 4 && strcmp(argv[3], "--") == 0)
        status = run(argv + 4);
    else
        hold(argv[3], argc > 4 ? argv[4] : NULL);
    /* One write with O_APPEND: lines of different processes do not mix. */
    fd = open(argv[1], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    size = snprintf(line, sizeof line, "%s %lld %lld\n", argv[2], start, now());
    if (fd < 0 || size >= (int)sizeof line || write(fd, line, size) != size)
        return FAILED; /* what is not recorded must not look like what did not run */
    if (WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        kill(getpid(), WTERMSIG(status));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
}
