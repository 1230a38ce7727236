/* The list of a program's stacks, for those who look from outside. docs/ROSTER.md explains it.
 *
 * A library that makes stacks may keep such a list of its own: define one `struct stackscope_roster` as below, and put
 * STACKSCOPE_ROSTER_NOTE(its name) at file level. Any number of them may be in one process.
 */
#ifndef STACKSCOPE_ROSTER_H
#define STACKSCOPE_ROSTER_H

#include <stdint.h>

#define STACKSCOPE_ROSTER_MAGIC "stackscope ROST\x01"
#define STACKSCOPE_ROSTER_VERSION 1

enum stackscope_roster_state {
    STACKSCOPE_UNUSED = 0,   /* the line is not in use */
    STACKSCOPE_IDLE = 1,     /* a stack that waits for a user */
    STACKSCOPE_NEW = 2,      /* a coroutine that has not been resumed yet */
    STACKSCOPE_STARTED = 3,  /* suspended where *context is not 0, else running or resuming another */
    STACKSCOPE_FINISHED = 4, /* a coroutine that is over */
    STACKSCOPE_SEGMENT = 5   /* a piece that another stack has grown by */
};

struct stackscope_roster_entry {
    uint32_t sequence; /* odd while the line is being changed */
    uint32_t state;    /* enum stackscope_roster_state */
    uint64_t low;      /* the lowest address of the stack */
    uint64_t high;     /* the first address above it */
    uint64_t context;  /* the address of a word with the saved stack pointer, 0 while it runs; or 0 */
    char source[16];   /* how the stack was made: UTF-8, ended by a zero byte */
    char name[80];     /* what its user is called: UTF-8, ended by a zero byte */
} __attribute__((aligned(64)));

struct stackscope_roster_chunk {
    struct stackscope_roster_chunk *next; /* the one made before it, or NULL */
    uint64_t length;                      /* how many entries follow */
    struct stackscope_roster_entry entries[];
};

struct stackscope_roster {
    char magic[16];      /* STACKSCOPE_ROSTER_MAGIC without its terminating zero */
    uint32_t version;    /* STACKSCOPE_ROSTER_VERSION */
    uint32_t entry_size; /* sizeof(struct stackscope_roster_entry) */
    struct stackscope_roster_chunk *chunks;
};

_Static_assert(sizeof(struct stackscope_roster_entry) == 128, "layout");
_Static_assert(sizeof(struct stackscope_roster) == 32, "layout");

/* The note that leads to the roster in a stripped ELF file. */
#define STACKSCOPE_ROSTER_NOTE(roster)                   \
    __asm__(".pushsection .note.stackscope,\"a\",%note\n" \
            ".balign 4\n.long 11, 8, 1\n"                 \
            ".asciz \"stackscope\"\n.balign 4\n"          \
            "2: .quad " #roster " - 2b\n"                 \
            ".balign 4\n.popsection\n")

#endif
