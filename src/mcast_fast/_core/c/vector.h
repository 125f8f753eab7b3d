/* What the vectors of messages of both kinds (msghdr.h, wsasend.h) have in common; included behind mcast_message_vector. */
#ifndef MCAST_VECTOR_H
#define MCAST_VECTOR_H

static inline void
mcast_vector_clear(mcast_message_vector *vector)
{
    vector->messages = vector->used = 0;
}

/* Whether a message of this number of datagrams has space. */
static inline int
mcast_vector_has_room(const mcast_message_vector *vector, unsigned datagrams)
{
    return vector->messages < MCAST_VECTOR_MESSAGES && vector->used + datagrams <= MCAST_VECTOR_PIECES;
}

#endif
