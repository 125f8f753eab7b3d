/* Locks, conditions and native threads of Windows, under the names of pthreads.h: SRW locks (synchapi.h). */
#ifndef MCAST_SRWLOCK_H
#define MCAST_SRWLOCK_H

typedef SRWLOCK mcast_mutex;
typedef CONDITION_VARIABLE mcast_condition;
typedef HANDLE mcast_thread;

#define MCAST_MUTEX_INITIAL SRWLOCK_INIT

static inline int
mcast_mutex_open(mcast_mutex *mutex)
{
    InitializeSRWLock(mutex);
    return 0;
}

static inline void
mcast_mutex_close(mcast_mutex *mutex)
{
    (void)mutex;
}

static inline void
mcast_lock(mcast_mutex *mutex)
{
    AcquireSRWLockExclusive(mutex);
}

static inline void
mcast_unlock(mcast_mutex *mutex)
{
    ReleaseSRWLockExclusive(mutex);
}

static inline int
mcast_condition_open(mcast_condition *condition)
{
    InitializeConditionVariable(condition);
    return 0;
}

static inline void
mcast_condition_close(mcast_condition *condition)
{
    (void)condition;
}

static inline void
mcast_condition_signal_all(mcast_condition *condition)
{
    WakeAllConditionVariable(condition);
}

/* Waits for a signal for `ns` at most, with the mutex held before and after. It may return early. */
static inline void
mcast_condition_wait(mcast_condition *condition, mcast_mutex *mutex, int64_t ns)
{
    SleepConditionVariableSRW(condition, mutex, (DWORD)((ns + 999999) / 1000000), 0);
}

typedef struct mcast_thread_request {
    void *(*run)(void *);
    void *argument;
} mcast_thread_request;

static DWORD WINAPI
mcast_thread_main(LPVOID argument)
{
    mcast_thread_request request = *(mcast_thread_request *)argument;
    free(argument);
    request.run(request.argument);
    return 0;
}

/* Starts a native thread. 0, or -errno. */
static inline int
mcast_thread_start(mcast_thread *thread, void *(*run)(void *), void *argument)
{
    mcast_thread_request *request = malloc(sizeof *request);
    if (!request)
        return -ENOMEM;
    *request = (mcast_thread_request){run, argument};
    *thread = CreateThread(NULL, 0, mcast_thread_main, request, 0, NULL);
    if (*thread)
        return 0;
    free(request);
    return -EAGAIN;
}

static inline void
mcast_thread_join(mcast_thread thread)
{
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

/* Nothing forks here. */
static inline int
mcast_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void))
{
    (void)before, (void)in_parent, (void)in_child;
    return 0;
}

/* A thread that is not Python's; `cpu` is where it runs, -1 anywhere. */
static inline void
mcast_thread_begin(int cpu)
{
    if (cpu >= 0 && cpu < (int)(8 * sizeof(DWORD_PTR)))
        SetThreadAffinityMask(GetCurrentThread(), (DWORD_PTR)1 << cpu);
}

/* Threads of Windows have no slack of their own. */
static inline long
mcast_timer_slack(long slack)
{
    (void)slack;
    return 0;
}

#endif
