#include "process.h"
#include "platform.h"

uint32_t mcast_process_number;

static mcast_fork_hook *first_hook; /* the one registered last */
static int watched;

static void
run_before(void)
{
    for (mcast_fork_hook *hook = first_hook; hook; hook = hook->next)
        hook->before();
}

static void
run_after(mcast_fork_hook *hook)
{
    if (!hook)
        return;
    run_after(hook->next);
    hook->after();
}

static void
run_in_parent(void)
{
    run_after(first_hook);
}

static void
run_in_child(void)
{
    mcast_process_number++;
    run_after(first_hook);
}

int
mcast_process_add_hook(mcast_fork_hook *hook)
{
    int status = watched ? 0 : mcast_at_fork(run_before, run_in_parent, run_in_child);
    if (status != 0)
        return status;
    watched = 1;
    hook->next = first_hook;
    first_hook = hook;
    return 0;
}
