/* shape.h - problems as text: the SHAPE of the command line and the rows of a workload file (CSV).
 *
 *     n8_ic48_oc48_i64x64x64_k3_s1_p0_op0_d1_g1
 *
 * Parts in any order, joined by '_': n batch, ic and oc channels, i input size, k kernel, s stride, p padding (may be
 * negative), op output padding, d dilation, g groups, os a fixed output size. A single number stands for all three
 * axes. ic, oc, i and k are required; the others default to n1 s1 p0 op0 d1 g1 and no os. Only the text is judged
 * here: whether the problem makes sense is for the library to say.
 *
 * Header only, so that a test can print its failing problem in the words of the command line.
 */
#ifndef TOOLS_SHAPE_H
#define TOOLS_SHAPE_H

#include "convt3d.h"
#include "then.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SHAPE_TEXT = 1024,      /* bytes that hold any SHAPE that shape_format() writes */
    SHAPE_NAME = 64         /* bytes of the name of a workload                      */
};

typedef struct shape_case {
    char name[SHAPE_NAME];
    convt3d_desc desc;
    int64_t y_channels;     /* y is the first channels of a buffer that has so many; 0: it is dense */
} shape_case;

/* ---- numbers ---- */

/* Reads a decimal int64_t at *text and moves *text behind it. 0: done, -1: no number there, 1: out of range. No
 * blanks, no '+'. */
static inline int shape_read_integer(const char **text, int64_t *value)
{
    const char *digits = **text == '-' ? *text + 1 : *text;
    char *end;
    long long number;
    if (*digits < '0' || *digits > '9') return -1;
    errno = 0;
    number = strtoll(*text, &end, 10);
    if (errno == ERANGE || number > INT64_MAX || number < INT64_MIN) return 1;
    *text = end;
    *value = (int64_t)number;
    return 0;
}

/* Reads "2" or "2x3x4" (any separator) that fills the whole of text. 0: done, -1: malformed, 1: out of range. */
static inline int shape_read_axes(const char *text, char separator, int64_t axes[3])
{
    int count = 0;
    for (;;) {
        int failed = shape_read_integer(&text, &axes[count]);
        if (failed) return failed;
        count++;
        if (*text == '\0') break;
        if (*text != separator || count == 3) return -1;
        text++;
    }
    if (count == 2) return -1;
    if (count == 1) axes[1] = axes[2] = axes[0];
    return 0;
}

/* ---- SHAPE ---- */

typedef struct shape_key {
    const char *name;
    int64_t *value;
    int axes, required, seen;
} shape_key;

enum { SHAPE_KEYS = 11 };

static inline void shape_keys(convt3d_desc *desc, shape_key keys[SHAPE_KEYS])
{
    const shape_key all[SHAPE_KEYS] = {
        {"n", &desc->batch, 1, 0, 0},           {"ic", &desc->in_channels, 1, 1, 0},
        {"oc", &desc->out_channels, 1, 1, 0},   {"i", desc->in_size, 3, 1, 0},
        {"k", desc->kernel, 3, 1, 0},           {"s", desc->stride, 3, 0, 0},
        {"p", desc->padding, 3, 0, 0},          {"op", desc->output_padding, 3, 0, 0},
        {"d", desc->dilation, 3, 0, 0},         {"g", &desc->groups, 1, 0, 0},
        {"os", desc->out_size, 3, 0, 0},
    };
    memcpy(keys, all, sizeof all);
}

static inline void shape_defaults(convt3d_desc *desc)
{
    int a;
    desc->batch = desc->groups = 1;
    desc->in_channels = desc->out_channels = 0;
    desc->fixed_out_size = 0;
    for (a = 0; a < 3; a++) {
        desc->in_size[a] = desc->kernel[a] = desc->padding[a] = desc->output_padding[a] = desc->out_size[a] = 0;
        desc->stride[a] = desc->dilation[a] = 1;
    }
}

/* One part such as "i64x64x64". Returns 0, or -1 with a message. */
static inline int shape_parse_part(const char *part, shape_key keys[SHAPE_KEYS], char *message, size_t size)
{
    size_t letters = strspn(part, "abcdefghijklmnopqrstuvwxyz");
    int k = 0, failed;
    while (k < SHAPE_KEYS && (strlen(keys[k].name) != letters || strncmp(keys[k].name, part, letters) != 0)) k++;
    if (k == SHAPE_KEYS) {
        snprintf(message, size, "\"%s\" is none of n, ic, oc, i, k, s, p, op, d, g, os with a number", part);
        return -1;
    }
    if (keys[k].seen++) {
        snprintf(message, size, "%s is given twice", keys[k].name);
        return -1;
    }
    if (keys[k].axes == 3) {
        failed = shape_read_axes(part + letters, 'x', keys[k].value);
    } else {
        const char *end = part + letters;
        failed = shape_read_integer(&end, keys[k].value);
        if (!failed && *end != '\0') failed = -1;
    }
    if (failed > 0) snprintf(message, size, "\"%s\" does not fit 64 bits", part);
    else if (failed) snprintf(message, size, "\"%s\" wants %s after %s", part, keys[k].axes == 3 ?
                              "one number or three joined by x" : "one number", keys[k].name);
    return failed ? -1 : 0;
}

/* Sets the sizes in *desc (batch ... dilation, out_size, fixed_out_size) from text and leaves the rest of *desc as it
 * is. Returns 0, or -1 with a message (no newline) and *desc unchanged. */
static inline int shape_parse(const char *text, convt3d_desc *desc, char *message, size_t size)
{
    convt3d_desc parsed = *desc;
    shape_key keys[SHAPE_KEYS];
    char part[96];
    int k;
    shape_defaults(&parsed);
    shape_keys(&parsed, keys);
    for (;;) {
        size_t length = strcspn(text, "_");
        if (length >= sizeof part) {
            snprintf(message, size, "\"%.20s...\" is too long", text);
            return -1;
        }
        memcpy(part, text, length);
        part[length] = '\0';
        if (shape_parse_part(part, keys, message, size)) return -1;
        text += length;
        if (*text++ == '\0') break;
    }
    for (k = 0; k < SHAPE_KEYS; k++) {
        if (!keys[k].required || keys[k].seen) continue;
        snprintf(message, size, "%s is missing; a shape reads like n1_ic8_oc4_i16_k2_s2", keys[k].name);
        return -1;
    }
    parsed.fixed_out_size = keys[SHAPE_KEYS - 1].seen;
    *desc = parsed;
    return 0;
}

/* The SHAPE that shape_parse() reads back to the same numbers. size: SHAPE_TEXT is always enough. */
static inline void shape_format(const convt3d_desc *desc, char *text, size_t size)
{
    convt3d_desc copy = *desc;
    shape_key keys[SHAPE_KEYS];
    size_t used = 0;
    int k, count = desc->fixed_out_size ? SHAPE_KEYS : SHAPE_KEYS - 1;
    if (size == 0) return;
    text[0] = '\0';
    shape_keys(&copy, keys);
    for (k = 0; k < count && used < size; k++) {
        const int64_t *v = keys[k].value;
        const char *join = k ? "_" : "";
        int one = keys[k].axes == 1 || (v[0] == v[1] && v[1] == v[2]);
        int wrote = one ? snprintf(text + used, size - used, "%s%s%" PRId64, join, keys[k].name, v[0])
                        : snprintf(text + used, size - used, "%s%s%" PRId64 "x%" PRId64 "x%" PRId64, join,
                                   keys[k].name, v[0], v[1], v[2]);
        if (wrote < 0) return;
        used += (size_t)wrote;
    }
}

/* ---- workload files ---- */

typedef struct shape_column {
    const char *name;
    int64_t *value;     /* NULL: text */
    int required;
} shape_column;

enum { SHAPE_COLUMNS = 28, SHAPE_LINE = 4096 };

static inline void shape_columns(shape_case *row, shape_column columns[SHAPE_COLUMNS])
{
    convt3d_desc *desc = &row->desc;
    const shape_column all[SHAPE_COLUMNS] = {
        {"name", NULL, 1}, {"source", NULL, 0}, {"then", NULL, 0}, {"y_channels", &row->y_channels, 0},
        {"batch", &desc->batch, 0}, {"groups", &desc->groups, 0},
        {"in_channels", &desc->in_channels, 1}, {"out_channels", &desc->out_channels, 1},
        {"in_d", &desc->in_size[0], 1}, {"in_h", &desc->in_size[1], 1}, {"in_w", &desc->in_size[2], 1},
        {"k_d", &desc->kernel[0], 1}, {"k_h", &desc->kernel[1], 1}, {"k_w", &desc->kernel[2], 1},
        {"s_d", &desc->stride[0], 0}, {"s_h", &desc->stride[1], 0}, {"s_w", &desc->stride[2], 0},
        {"p_d", &desc->padding[0], 0}, {"p_h", &desc->padding[1], 0}, {"p_w", &desc->padding[2], 0},
        {"op_d", &desc->output_padding[0], 0}, {"op_h", &desc->output_padding[1], 0},
        {"op_w", &desc->output_padding[2], 0},
        {"d_d", &desc->dilation[0], 0}, {"d_h", &desc->dilation[1], 0}, {"d_w", &desc->dilation[2], 0},
        {NULL, NULL, 0}, {NULL, NULL, 0},
    };
    memcpy(columns, all, sizeof all);
}

/* Cuts the next field off a line, in place: plain, or quoted with "" for a quote. NULL when quotes are wrong. */
static inline char *shape_next_field(char **line)
{
    char *field = *line, *out = field, *in = field;
    if (*in == '"') {
        for (in++; *in && (*in != '"' || in[1] == '"'); in++) {
            if (*in == '"') in++;
            *out++ = *in;
        }
        if (*in++ != '"' || (*in != ',' && *in != '\0')) return NULL;
    } else {
        while (*in && *in != ',') in++;
        out = in;
    }
    *line = *in ? in + 1 : NULL;
    *out = '\0';
    return field;
}

/* Reads one line without its end. Returns 1, 0 at the end of the file, -1 with a message. */
static inline int shape_read_line(FILE *file, const char *path, int number, char *line, char *message, size_t size)
{
    size_t length = 0;
    int c = getc(file);
    if (c == EOF && !ferror(file)) return 0;
    for (; c != EOF && c != '\n'; c = getc(file)) {
        if (c == '\0' || length == SHAPE_LINE - 1) {
            const char *wrong = c ? "the line is too long" : "this is not a text file";
            snprintf(message, size, "%s:%d: %s", path, number, wrong);
            return -1;
        }
        line[length++] = (char)c;
    }
    if (ferror(file)) {
        snprintf(message, size, "%s: %s", path, strerror(errno));
        return -1;
    }
    if (length && line[length - 1] == '\r') length--;
    line[length] = '\0';
    return 1;
}

typedef struct shape_header { int count, column[SHAPE_COLUMNS]; } shape_header;

/* The first line: which column is where. */
static inline int shape_parse_header(char *line, const char *path, shape_header *header, char *message, size_t size)
{
    shape_case unused;
    shape_column columns[SHAPE_COLUMNS];
    int seen[SHAPE_COLUMNS] = {0}, c;
    shape_columns(&unused, columns);
    for (header->count = 0; line; header->count++) {
        char *field = shape_next_field(&line);
        for (c = 0; field && columns[c].name && strcmp(columns[c].name, field) != 0;) c++;
        if (!field || !columns[c].name || seen[c]) {
            snprintf(message, size, "%s:1: column \"%.40s\" %s", path, field ? field : "", !field ?
                     "has a misplaced quote" : columns[c].name ? "is there twice" : "is unknown");
            return -1;
        }
        seen[c] = 1;
        header->column[header->count] = c;
    }
    for (c = 0; columns[c].name; c++) {
        if (!columns[c].required || seen[c]) continue;
        snprintf(message, size, "%s:1: column %s is missing", path, columns[c].name);
        return -1;
    }
    return 0;
}

/* Any other line: one problem. The fields of desc that are no column keep what is in *row. */
static inline int shape_parse_row(char *line, const char *path, int number, const shape_header *header,
                                  shape_case *row, char *message, size_t size)
{
    shape_column columns[SHAPE_COLUMNS];
    char why[THEN_TEXT];
    int i;
    shape_defaults(&row->desc);
    shape_columns(row, columns);
    for (i = 0; i < header->count; i++) {
        const shape_column *column = &columns[header->column[i]];
        const char *field = line ? shape_next_field(&line) : NULL, *end = field;
        const char *wrong = NULL;
        if (!field) wrong = "is missing or misquoted";
        else if (strcmp(column->name, "name") == 0) {
            if (*field == '\0') wrong = "is empty";
            else if (strlen(field) >= SHAPE_NAME) wrong = "is longer than 63 bytes";
            else strcpy(row->name, field);
        } else if (strcmp(column->name, "then") == 0) {
            if (*field && !then_parse(field, row->desc.ops, why)) wrong = why;
        } else if (column->value) {
            int failed = shape_read_integer(&end, column->value);
            if (failed > 0) wrong = "does not fit 64 bits";
            else if (failed || *end != '\0') wrong = "is not an integer";
        }
        if (!wrong) continue;
        snprintf(message, size, "%s:%d: %s%s%.40s%s %.200s", path, number, column->name, field ? " = \"" : "",
                 field ? field : "", field ? "\"" : "", wrong);
        return -1;
    }
    if (row->y_channels != 0 && row->y_channels < row->desc.out_channels) {
        snprintf(message, size, "%s:%d: y_channels is neither 0 nor at least out_channels", path, number);
        return -1;
    }
    if (!line) return 0;
    snprintf(message, size, "%s:%d: more than the %d fields of the header", path, number, header->count);
    return -1;
}

static inline int shape_append(shape_case **cases, size_t *count, const shape_case *row)
{
    shape_case *grown = *count < SIZE_MAX / sizeof **cases - 1
                            ? (shape_case *)realloc(*cases, (*count + 1) * sizeof **cases) : NULL;
    if (!grown) return -1;
    *cases = grown;
    grown[(*count)++] = *row;
    return 0;
}

/* Appends the problems of a CSV file to *cases (realloc; the caller frees it also after an error), each a copy of
 * *base with its sizes set. Columns go by name, in any order; those with a default may be absent. Returns 0, or -1
 * with a message that says file, line and column. */
static inline int shape_read_csv(const char *path, const convt3d_desc *base, shape_case **cases, size_t *count,
                                 char *message, size_t size)
{
    char line[SHAPE_LINE];
    shape_header header = {0, {0}};
    shape_case row;
    size_t before = *count;
    int number = 1, status;
    FILE *file = fopen(path, "rb");
    if (!file) {
        snprintf(message, size, "%s: %s", path, strerror(errno));
        return -1;
    }
    for (; (status = shape_read_line(file, path, number, line, message, size)) > 0; number++) {
        if (number == 1) {
            if (shape_parse_header(line, path, &header, message, size)) status = -1;
        } else if (line[0] != '\0') {
            memset(&row, 0, sizeof row);
            row.desc = *base;
            if (shape_parse_row(line, path, number, &header, &row, message, size)) {
                status = -1;
            } else if (shape_append(cases, count, &row)) {
                snprintf(message, size, "%s: out of memory", path);
                status = -1;
            }
        }
        if (status < 0) break;
    }
    fclose(file);
    if (status == 0 && *count == before) {
        snprintf(message, size, "%s: no workload in it", path);
        return -1;
    }
    return status;
}

#endif
