/* What macOS has, or has under another name than Linux, for .ci/platforms/darwin. The numbers stay Linux's: it is Linux's kernel that answers. */
#ifndef MCAST_TESTS_NAMES_H
#define MCAST_TESTS_NAMES_H

#include <pthread.h>

#define weak_import weak
#define IP_RECVPKTINFO IP_PKTINFO

int pthread_cond_timedwait_relative_np(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *time);

#endif
