/* Which process this is: an object belongs to the process that opened it, and a forked child must not touch what it shares. */
#ifndef MCAST_PROCESS_H
#define MCAST_PROCESS_H

#include <stdint.h>

/* What has to rest while a process forks: `before` runs in the forking thread, `after` in the parent and in the child. */
typedef struct mcast_fork_hook {
    void (*before)(void);
    void (*after)(void);
    struct mcast_fork_hook *next;
} mcast_fork_hook;

/* The number of forks on the way to this process: compared with the number at opening, which costs no system call. */
extern uint32_t mcast_process_number;

/* Counts forks from now on, and runs the hook around each. Hooks run before a fork in the reverse order of their registration, and after
 * it in that order; each is registered once, while one thread imports the library. 0, or -errno. */
int mcast_process_add_hook(mcast_fork_hook *hook);

#endif
