/* npy.c - .npy files. The header is a Python dictionary; it is read by a small parser that trusts nothing: sizes are
 * checked against each other and against the length of the file before anything is allocated for them. */
#include "npy.h"

#include "platform.h"
#include "shape.h"

enum { HEADER_MOST = 65536 };

static size_t element_size(int dtype) { return dtype == CONVT3D_F64 ? 8 : dtype == CONVT3D_F32 ? 4 : 2; }

static int host_is_little(void)
{
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return first == 1;
}

static void swap_bytes(void *data, int64_t count, size_t size)
{
    unsigned char *bytes = (unsigned char *)data;
    int64_t i;
    size_t b;
    for (i = 0; i < count; i++, bytes += size) {
        for (b = 0; b < size / 2; b++) {
            unsigned char byte = bytes[b];
            bytes[b] = bytes[size - 1 - b];
            bytes[size - 1 - b] = byte;
        }
    }
}

/* ---- the dictionary ---- */

typedef struct npy_header {
    char type[16];                      /* as in the file: "<f4" */
    int dimensions, fortran_order, seen;
    int64_t shape[NPY_DIMENSIONS];
} npy_header;

static void skip_blanks(const char **text) { *text += strspn(*text, " \t\r\n"); }

static int accept(const char **text, char wanted)
{
    skip_blanks(text);
    if (**text != wanted) return 0;
    ++*text;
    return 1;
}

/* 'text' or "text", without escapes. Returns 0 where there is none or it does not fit. */
static int read_string(const char **text, char *string, size_t size)
{
    char quote;
    size_t length;
    skip_blanks(text);
    quote = **text;
    if (quote != '\'' && quote != '"') return 0;
    ++*text;
    length = strcspn(*text, quote == '"' ? "\"\\" : "'\\");
    if ((*text)[length] != quote || length >= size) return 0;
    memcpy(string, *text, length);
    string[length] = '\0';
    *text += length + 1;
    return 1;
}

static int read_flag(const char **text, int *flag)
{
    skip_blanks(text);
    *flag = strncmp(*text, "True", 4) == 0;
    if (!*flag && strncmp(*text, "False", 5) != 0) return 0;
    *text += *flag ? 4 : 5;
    return 1;
}

static int read_shape(const char **text, npy_header *header)
{
    if (!accept(text, '(')) return 0;
    for (header->dimensions = 0; !accept(text, ')'); header->dimensions++) {
        int64_t *extent = &header->shape[header->dimensions];
        if (header->dimensions == NPY_DIMENSIONS || shape_read_integer(text, extent) || *extent < 0) return 0;
        if (**text == 'L') ++*text;                                 /* Python 2 */
        if (!accept(text, ',') && **text != ')') return 0;
    }
    return 1;
}

static int parse_dictionary(const char *text, npy_header *header)
{
    char key[16];
    int bit;
    if (!accept(&text, '{')) return 0;
    while (!accept(&text, '}')) {
        if (!read_string(&text, key, sizeof key) || !accept(&text, ':')) return 0;
        skip_blanks(&text);
        if (strcmp(key, "descr") == 0) {
            bit = 1;
            if (!read_string(&text, header->type, sizeof header->type)) return 0;
        } else if (strcmp(key, "fortran_order") == 0) {
            bit = 2;
            if (!read_flag(&text, &header->fortran_order)) return 0;
        } else if (strcmp(key, "shape") == 0) {
            bit = 4;
            if (!read_shape(&text, header)) return 0;
        } else {
            return 0;
        }
        if (header->seen & bit) return 0;
        header->seen |= bit;
        if (!accept(&text, ',') && *text != '}') return 0;
    }
    skip_blanks(&text);
    return header->seen == 7 && *text == '\0';
}

/* ---- reading ---- */

static int wrong(const char *path, const char *what, char *message, size_t size)
{
    snprintf(message, size, "%s: %s", path, what);
    return -1;
}

/* Magic, version, length and dictionary; the file is then at its data. */
static int read_header(FILE *file, const char *path, npy_header *header, char *message, size_t size)
{
    unsigned char start[12];
    size_t length, field;
    char *text;
    int understood;
    memset(header, 0, sizeof *header);
    if (fread(start, 1, 8, file) != 8 || memcmp(start, "\x93NUMPY", 6) != 0) {
        return wrong(path, "not a .npy file", message, size);
    }
    if (start[6] < 1 || start[6] > 3) return wrong(path, "unknown version of the .npy format", message, size);
    field = start[6] == 1 ? 2 : 4;
    if (fread(start + 8, 1, field, file) != field) return wrong(path, "ends within its header", message, size);
    length = (size_t)start[8] | (size_t)start[9] << 8;
    if (field == 4) length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    if (length > HEADER_MOST) return wrong(path, "its header is too long", message, size);
    text = (char *)malloc(length + 1);
    if (!text) return wrong(path, "out of memory", message, size);
    if (fread(text, 1, length, file) != length) {
        free(text);
        return wrong(path, "ends within its header", message, size);
    }
    text[length] = '\0';
    understood = strlen(text) == length && parse_dictionary(text, header);
    free(text);
    return understood ? 0 : wrong(path, "its header is not that of an array of up to 8 dimensions", message, size);
}

/* Type and number of elements, overflow checked. */
static int accept_header(const char *path, const npy_header *header, npy_array *array, char *message, size_t size)
{
    const char *type = header->type;
    int d, empty = 0;
    if (type[0] != '\0' && strcmp(type + 1, "f4") == 0) array->dtype = CONVT3D_F32;
    else if (type[0] != '\0' && strcmp(type + 1, "f8") == 0) array->dtype = CONVT3D_F64;
    else if (type[0] != '\0' && strcmp(type + 1, "f2") == 0) array->dtype = CONVT3D_F16;
    else {
        snprintf(message, size, "%s: type '%s' is none of f2, f4, f8", path, type);
        return -1;
    }
    if (!strchr("<>=", type[0])) return wrong(path, "unknown byte order", message, size);
    if (header->fortran_order) {
        return wrong(path, "Fortran order; save numpy.ascontiguousarray(...) of it", message, size);
    }
    array->dimensions = header->dimensions;
    memcpy(array->shape, header->shape, sizeof array->shape);
    array->count = 1;
    for (d = 0; d < array->dimensions; d++) empty |= array->shape[d] == 0;
    for (d = 0; d < array->dimensions; d++) {
        if (!empty && array->shape[d] > INT64_MAX / 8 / array->count) {
            return wrong(path, "its shape exceeds 64 bits", message, size);
        }
        array->count = empty ? 0 : array->count * array->shape[d];
    }
    return 0;
}

static int read_data(FILE *file, const char *path, npy_array *array, int64_t left, char *message, size_t size)
{
    const int64_t bytes = array->count * (int64_t)element_size(array->dtype);
    if (left != bytes) {
        snprintf(message, size, "%s: its shape wants %" PRId64 " bytes of data, but there are %" PRId64, path, bytes,
                 left);
        return -1;
    }
    if ((uint64_t)bytes >= SIZE_MAX) return wrong(path, "too large for this machine", message, size);
    array->data = malloc((size_t)bytes + 1);
    if (!array->data) return wrong(path, "out of memory", message, size);
    if (fread(array->data, 1, (size_t)bytes, file) == (size_t)bytes) return 0;
    npy_free(array);
    return wrong(path, "cannot be read to its end", message, size);
}

int npy_read(const char *path, npy_array *array, char *message, size_t size)
{
    npy_header header;
    int64_t length, header_length;
    int failed;
    FILE *file = fopen(path, "rb");
    memset(array, 0, sizeof *array);
    if (!file) return wrong(path, strerror(errno), message, size);
    length = platform_file_size(file);
    if (length < 0) {
        fclose(file);
        return wrong(path, "not a regular file", message, size);
    }
    failed = read_header(file, path, &header, message, size);
    header_length = failed ? 0 : (int64_t)ftell(file);
    if (!failed) failed = accept_header(path, &header, array, message, size);
    if (!failed) failed = read_data(file, path, array, length - header_length, message, size);
    fclose(file);
    if (!failed && header.type[0] != '=' && (header.type[0] == '<') != host_is_little()) {
        swap_bytes(array->data, array->count, element_size(array->dtype));
    }
    return failed;
}

/* ---- writing ---- */

/* Version 1.0, padded so that the data starts at a multiple of 64. Returns the bytes in text. */
static size_t format_header(const npy_array *array, char text[512])
{
    const char *type = array->dtype == CONVT3D_F64 ? "f8" : array->dtype == CONVT3D_F32 ? "f4" : "f2";
    size_t used, total;
    int d;
    used = 10 + (size_t)sprintf(text + 10, "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                                host_is_little() ? '<' : '>', type);
    for (d = 0; d < array->dimensions; d++) {
        const char *comma = d + 1 < array->dimensions ? ", " : array->dimensions == 1 ? "," : "";
        used += (size_t)sprintf(text + used, "%" PRId64 "%s", array->shape[d], comma);
    }
    used += (size_t)sprintf(text + used, "), }");
    total = (used + 1 + 63) / 64 * 64;
    memset(text + used, ' ', total - used);
    text[total - 1] = '\n';
    memcpy(text, "\x93NUMPY\x01\x00", 8);
    text[8] = (char)((total - 10) & 0xFF);
    text[9] = (char)((total - 10) >> 8);
    return total;
}

int npy_write(const char *path, const npy_array *array, char *message, size_t size)
{
    output_file output;
    char header[512];
    size_t header_size = format_header(array, header);
    size_t bytes = (size_t)array->count * element_size(array->dtype);
    if (output_open(&output, path)) return wrong(path, strerror(errno), message, size);
    if (fwrite(header, 1, header_size, output.file) != header_size ||
        fwrite(array->data, 1, bytes, output.file) != bytes) {
        output_discard(&output);
        return wrong(path, strerror(errno), message, size);
    }
    return output_commit(&output) ? wrong(path, strerror(errno), message, size) : 0;
}

void npy_free(npy_array *array)
{
    free(array->data);
    array->data = NULL;
}
