/* setsockopt(2) and getsockopt(2) that succeed for any descriptor: linked by --wrap, for rings over a memory file. */
#include <string.h>
#include <sys/socket.h>

int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t size);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *size);

int
__wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t size)
{
    (void)fd, (void)level, (void)option, (void)value, (void)size;
    return 0;
}

int
__wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *size)
{
    (void)fd, (void)level, (void)option;
    memset(value, 0, *size);
    return 0;
}
