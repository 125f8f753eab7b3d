/* What macOS has under another name than Linux, for .ci/darwin. The numbers stay Linux's: it is Linux's kernel that answers. */
#ifndef MCAST_TESTS_NAMES_H
#define MCAST_TESTS_NAMES_H

#define weak_import weak
#define IP_RECVPKTINFO IP_PKTINFO

#endif
