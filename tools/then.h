/* then.h - the list of what follows the convolution, as text: relu,group_norm:8:1e-5 (name, then its numbers after
 * colons; a number left out is PyTorch's default). Shared by the command line and the tests' reproducer lines. */
#ifndef TOOLS_THEN_H
#define TOOLS_THEN_H

#include "../convt3d.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THEN_TEXT = 512 };       /* bytes that the longest list fits */

/* PyTorch's defaults of the numbers. Returns how many numbers must be given. */
static inline int then_defaults(convt3d_op *op)
{
    switch (op->kind) {
    case CONVT3D_OP_AFFINE:     op->a = 1;  return 1;
    case CONVT3D_OP_CLAMP:      return 2;
    case CONVT3D_OP_LEAKY_RELU: op->a = 0.01;  return 0;
    case CONVT3D_OP_ELU:        op->a = 1;  return 0;
    case CONVT3D_OP_SOFTPLUS:   op->a = 1;  op->b = 20;  return 0;
    case CONVT3D_OP_GROUP_NORM: op->a = 1e-5;  return 1;
    case CONVT3D_OP_BATCH_NORM: op->a = 1e-5;  op->b = 0.1;  return 0;
    default:                    return 0;
    }
}

/* Writes into why and returns 0 where the text is no list. */
static inline int then_refuse(char why[THEN_TEXT], const char *entry, const char *reason)
{
    snprintf(why, THEN_TEXT, "entry \"%.80s\" %s", entry, reason);
    return 0;
}

static inline int then_numbers(convt3d_op *op, const char *entry, char *numbers, char why[THEN_TEXT])
{
    int uses = convt3d_op_uses(op->kind), given = 0, least = then_defaults(op);
    for (; numbers; given++) {
        char *next = strchr(numbers, ':'), *end;
        double v;
        if (next) *next++ = '\0';
        v = strtod(numbers, &end);
        if (end == numbers || *end || v != v) return then_refuse(why, entry, "has something that is no number");
        if ((uses & CONVT3D_USES_GROUPS) && given == 0) {
            if (!(v >= 0 && v <= 2147483647) || v != (double)(int32_t)v)
                return then_refuse(why, entry, "wants a whole number of groups first");
            op->groups = (int32_t)v;
        } else if ((uses & CONVT3D_USES_A) && given == ((uses & CONVT3D_USES_GROUPS) != 0)) {
            op->a = v;
        } else if ((uses & CONVT3D_USES_B) && given == 1) {
            op->b = v;
        } else {
            return then_refuse(why, entry, "has more numbers than it takes");
        }
        numbers = next;
    }
    return given >= least ? 1 : then_refuse(why, entry, "has fewer numbers than it takes");
}

/* Reads a list; "" is the empty one. Returns 0 and says why where it is none; ops is then unchanged. */
static inline int then_parse(const char *text, convt3d_op ops[CONVT3D_MAX_OPS], char why[THEN_TEXT])
{
    convt3d_op list[CONVT3D_MAX_OPS];
    char copy[THEN_TEXT], entry[THEN_TEXT], *at = copy, *next, *numbers;
    int count = 0, kind;
    memset(list, 0, sizeof list);
    if (strlen(text) >= sizeof copy) return then_refuse(why, text, "and what follows it is too long");
    strcpy(copy, text);
    for (; at && *text; at = next) {
        next = strchr(at, ',');
        if (next) *next++ = '\0';
        strcpy(entry, at);
        numbers = strchr(at, ':');
        if (numbers) *numbers++ = '\0';
        if (count == CONVT3D_MAX_OPS) return then_refuse(why, entry, "is one more than the 8 that a list may have");
        for (kind = 1; kind < CONVT3D_OP_COUNT && strcmp(at, convt3d_op_name(kind)); kind++) {}
        if (kind == CONVT3D_OP_COUNT) return then_refuse(why, entry, "is unknown");
        list[count].kind = kind;
        if (!then_numbers(&list[count++], entry, numbers, why)) return 0;
    }
    memcpy(ops, list, sizeof list);
    return 1;
}

/* ":v" in the fewest digits that read back as v. */
static inline size_t then_put_number(char *text, size_t size, double v)
{
    char digits[40];
    int precision = 1;
    do snprintf(digits, sizeof digits, "%.*g", precision, v); while (strtod(digits, NULL) != v && precision++ < 17);
    return (size_t)snprintf(text, size, ":%s", digits);
}

/* The text that then_parse() reads back, as far as it fits size. */
static inline void then_format(const convt3d_op ops[CONVT3D_MAX_OPS], char *text, size_t size)
{
    size_t length = 0;
    int i;
    text[0] = '\0';
    for (i = 0; i < CONVT3D_MAX_OPS && ops[i].kind != CONVT3D_OP_END && length < size; i++) {
        int uses = convt3d_op_uses(ops[i].kind);
        const char *name = convt3d_op_name(ops[i].kind);
        length += (size_t)snprintf(text + length, size - length, "%s%s", i ? "," : "", name ? name : "?");
        if ((uses & CONVT3D_USES_GROUPS) && length < size)
            length += (size_t)snprintf(text + length, size - length, ":%d", (int)ops[i].groups);
        if ((uses & CONVT3D_USES_A) && length < size) length += then_put_number(text + length, size - length, ops[i].a);
        if ((uses & CONVT3D_USES_B) && length < size) length += then_put_number(text + length, size - length, ops[i].b);
    }
}

#endif
