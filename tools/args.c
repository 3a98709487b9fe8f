/* args.c - parsing of options, help, and the list of problems. See args.h. */
#include "args.h"

#include "platform.h"
#include "then.h"

#include <stdarg.h>

typedef enum option_kind { KIND_TEXT, KIND_AXES, KIND_NUMBER, KIND_SEED, KIND_WORD, KIND_WORDS, KIND_THEN,
               KIND_PASS } option_kind;

typedef struct option {
    const char *name;
    option_kind kind;
    size_t offset;                      /* in struct options            */
    unsigned commands;
    const char *argument, *help;
    int64_t least, most;                /* KIND_NUMBER                  */
    const char *const *words;           /* KIND_WORD, KIND_WORDS        */
} option;

static const char *const dtype_words[] = {"f32", "f64", "f16", "bf16", NULL};
static const char *const layout_words[] = {"ncdhw", "ndhwc", NULL};
static const char *const device_words[] = {"cpu", "cuda", NULL};
static const char *const math_words[] = {"accurate", "tf32", NULL};
static const char *const data_words[] = {"exact", "real", NULL};
static const char *const scale_words[] = {"full", "small", "cpu", NULL};
static const char *const peer_words[] = {"onednn", NULL};

static const struct { const char *word; int32_t pass; } pass_words[] = {
    {"forward", CONVT3D_FORWARD}, {"backward", CONVT3D_BACKWARD}, {"backward_x", CONVT3D_BACKWARD_X},
    {"backward_w", CONVT3D_BACKWARD_W | CONVT3D_BACKWARD_BIAS},
};
enum { PASS_WORDS = sizeof pass_words / sizeof pass_words[0] };

const char *dtype_name(int dtype) { return dtype_words[dtype]; }
const char *layout_name(int layout) { return layout_words[layout]; }
const char *device_name(int device) { return device_words[device]; }
const char *math_name(int math) { return math_words[math]; }
const char *data_name(int data) { return data_words[data]; }

const char *pass_name(int32_t pass)
{
    int i = 0;
    while (i + 1 < PASS_WORDS && pass_words[i].pass != pass) i++;
    return pass_words[i].word;
}

#define FILES (CMD_RUN | CMD_CHECK)
#define SHAPES (CMD_CHECK | CMD_EXPLAIN | CMD_BENCH)
#define ALL (CMD_RUN | CMD_CHECK | CMD_EXPLAIN | CMD_BENCH)
#define AT(field) offsetof(options, field)

static const option option_table[] = {
    {"x", KIND_TEXT, AT(x), FILES, "FILE", "input, .npy, 5-D in the layout's order", 0, 0, NULL},
    {"w", KIND_TEXT, AT(w), FILES, "FILE", "weights, .npy, [in_channels, out_channels/groups, D, H, W]", 0, 0, NULL},
    {"bias", KIND_TEXT, AT(bias), FILES, "FILE", "bias, .npy, [out_channels]; none if left out", 0, 0, NULL},
    {"out", KIND_TEXT, AT(out), CMD_RUN, "FILE", "where y goes, .npy", 0, 0, NULL},
    {"stride", KIND_AXES, AT(stride), FILES, "S", "2 or 2,2,2 (D,H,W); default 1", 0, 0, NULL},
    {"padding", KIND_AXES, AT(padding), FILES, "P", "may be negative; default 0", 0, 0, NULL},
    {"output-padding", KIND_AXES, AT(output_padding), FILES, "P", "default 0", 0, 0, NULL},
    {"dilation", KIND_AXES, AT(dilation), FILES, "D", "default 1", 0, 0, NULL},
    {"out-size", KIND_AXES, AT(out_size), FILES, "SIZE", "fixes the output size", 0, 0, NULL},
    {"groups", KIND_NUMBER, AT(groups), FILES, "G", "default 1", 1, INT64_MAX, NULL},
    {"device", KIND_WORD, AT(device), ALL, "D", "cpu or cuda; default cpu", 0, 0, device_words},
    {"dtype", KIND_WORDS, AT(dtype), SHAPES, "T", "f32, f64, f16, bf16, list or all; default f32", 0, 0, dtype_words},
    {"math", KIND_WORDS, AT(math), ALL, "M", "accurate, tf32, a list or all; default accurate", 0, 0, math_words},
    {"layout", KIND_WORDS, AT(layout), ALL, "L", "ncdhw, ndhwc, a list or all; default ncdhw", 0, 0, layout_words},
    {"data", KIND_WORDS, AT(data), CMD_CHECK, "KIND", "exact (integers), real, or all; default all", 0, 0, data_words},
    {"kernel", KIND_TEXT, AT(kernel), ALL, "NAME", "the kernel to use; default: the library chooses", 0, 0, NULL},
    {"then", KIND_THEN, AT(then), ALL, "LIST", "what follows: relu,group_norm:8:1e-5, ...", 0, 0, NULL},
    {"pass", KIND_PASS, AT(pass), SHAPES, "P", "forward, backward, backward_x (dx) or backward_w (dw, dbias)", 0, 0,
     NULL},
    {"threads", KIND_NUMBER, AT(threads), ALL, "N", "CPU threads; default all", 1, INT32_MAX, NULL},
    {"seed", KIND_SEED, AT(seed), CMD_CHECK | CMD_BENCH, "S", "picks the random data; default 0", 0, 0, NULL},
    {"batch", KIND_NUMBER, AT(batch), SHAPES, "N", "in place of the batch of every problem", 0, INT64_MAX, NULL},
    {"scale", KIND_WORD, AT(scale), SHAPES, "S", "full; small: batch 1, 2 GFLOP, 100 MB; cpu: batch 1, 20 GFLOP", 0, 0,
     scale_words},
    {"repeats", KIND_NUMBER, AT(repeats), CMD_BENCH, "N", "least timed runs of a row; default 5", 1, 1000000, NULL},
    {"peer", KIND_WORD, AT(peer), CMD_BENCH, "LIB", "onednn: also time it on the same problems, on the CPU", 0, 0,
     peer_words},
    {"json", KIND_TEXT, AT(json), CMD_BENCH, "FILE", "also write the results there", 0, 0, NULL},
};

enum { OPTION_COUNT = sizeof option_table / sizeof option_table[0] };

typedef struct command_help { unsigned command; const char *name, *text; } command_help;

static const command_help command_table[] = {
    {CMD_RUN, "run",
     "usage: convt3d run --x x.npy --w w.npy [--bias b.npy] --out y.npy [options]\n"
     "Transposed convolution of .npy files. Type (f32, f64, f16) and sizes come from the files.\n"},
    {CMD_CHECK, "check",
     "usage: convt3d check SHAPE|@cases.csv ... [options]\n"
     "       convt3d check --x x.npy --w w.npy [--bias b.npy] [options]\n"
     "Compares a kernel with an oracle that shares no code with it. Exits 0 only when all cases pass.\n"},
    {CMD_EXPLAIN, "explain",
     "usage: convt3d explain SHAPE|@cases.csv ... [options]\n"
     "Says which kernel is chosen, why the others are not, FLOPs, bytes and workspace.\n"},
    {CMD_BENCH, "bench",
     "usage: convt3d bench SHAPE|@workloads.csv ... [options]\n"
     "Median times against the floor = max(bytes / copy rate, FLOPs / FMA rate), both rates measured in this run.\n"
     "Problems that fit the cache may run below their floor.\n"},
};

int fail(const char *format, ...)
{
    char text[1024];
    char *c;
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    for (c = text; *c; c++) {
        if ((unsigned char)*c < 32 || *c == 127) *c = '?';
    }
    fprintf(stderr, "convt3d: %s\n", text);
    return EXIT_USAGE;
}

/* ---- help ---- */

static const command_help *find_command(unsigned command)
{
    size_t i = 0;
    while (command_table[i].command != command) i++;
    return &command_table[i];
}

static void print_list_help(void)
{
    int kind, column = 0;
    printf("\nLIST: up to 8 of these, joined by commas, each with its numbers after colons (PyTorch's where left out):\n");
    for (kind = 1; kind < CONVT3D_OP_COUNT; kind++) {
        int uses = convt3d_op_uses(kind);
        column += printf("%s%s%s%s%s", column ? " " : "  ", convt3d_op_name(kind),
                         uses & CONVT3D_USES_GROUPS ? ":groups" : "", uses & CONVT3D_USES_A ? ":a" : "",
                         uses & CONVT3D_USES_B ? ":b" : "");
        if (column > 90) { printf("\n");  column = 0; }
    }
    if (column) printf("\n");
}

static void print_help(unsigned command)
{
    int i;
    printf("%s\noptions:\n", find_command(command)->text);
    for (i = 0; i < OPTION_COUNT; i++) {
        char left[32];
        if (!(option_table[i].commands & command)) continue;
        snprintf(left, sizeof left, "--%s %s", option_table[i].name, option_table[i].argument);
        printf("  %-22s %s\n", left, option_table[i].help);
    }
    printf("  %-22s %s\n", "--help", "this text");
    print_list_help();
    if (command == CMD_RUN) return;
    printf("\nSHAPE reads n8_ic48_oc48_i64x64x64_k3_s1_p0_op0_d1_g1: batch, channels, input size, kernel, stride,\n"
           "padding, output padding, dilation, groups; os64x64x64 fixes the output size. A single number stands for\n"
           "all three axes; ic, oc, i and k are required. @file is a CSV such as bench/workloads.csv or, with a LIST\n"
           "in column then, bench/blocks.csv; y_channels > 0 makes y the first channels of a buffer that has so many.\n");
}

/* ---- values ---- */

static int parse_axes(const option *entry, const char *text, int64_t *axes)
{
    int failed = shape_read_axes(text, ',', axes);
    if (failed > 0) return fail("--%s %s does not fit 64 bits", entry->name, text);
    return failed ? fail("--%s \"%s\" is neither a number nor three joined by commas", entry->name, text) : EXIT_PASS;
}

static int parse_number(const option *entry, const char *text, int64_t *value)
{
    const char *end = text;
    int failed = shape_read_integer(&end, value);
    if (failed < 0 || (!failed && *end)) return fail("--%s \"%s\" is not an integer", entry->name, text);
    if (failed || *value < entry->least || *value > entry->most) {
        return fail("--%s %s is outside %" PRId64 " ... %" PRId64, entry->name, text, entry->least, entry->most);
    }
    return EXIT_PASS;
}

static int parse_seed(const option *entry, const char *text, uint64_t *seed)
{
    char *end;
    unsigned long long value;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value > UINT64_MAX) {
        return fail("--%s \"%s\" is not an integer from 0 to 2^64 - 1", entry->name, text);
    }
    *seed = (uint64_t)value;
    return EXIT_PASS;
}

static int add_word(const option *entry, const char *text, size_t length, word_list *list)
{
    int w = 0, i;
    while (entry->words[w] && (strlen(entry->words[w]) != length || memcmp(entry->words[w], text, length) != 0)) w++;
    if (!entry->words[w]) return fail("--%s \"%.*s\" is none of: %s", entry->name, (int)length, text, entry->help);
    for (i = 0; i < list->count; i++) {
        if (list->value[i] == w) return fail("--%s names %s twice", entry->name, entry->words[w]);
    }
    list->value[list->count++] = w;
    return EXIT_PASS;
}

static int parse_words(const option *entry, const char *text, word_list *list)
{
    int status = EXIT_PASS;
    list->count = 0;
    if (entry->kind == KIND_WORDS && strcmp(text, "all") == 0) {
        for (; entry->words[list->count]; list->count++) list->value[list->count] = list->count;
        return EXIT_PASS;
    }
    while (status == EXIT_PASS) {
        size_t length = entry->kind == KIND_WORDS ? strcspn(text, ",") : strlen(text);
        status = add_word(entry, text, length, list);
        text += length;
        if (*text++ == '\0') break;
    }
    return status;
}

static int parse_list(const option *entry, const char *text, convt3d_op *ops)
{
    char why[THEN_TEXT];
    return then_parse(text, ops, why) ? EXIT_PASS : fail("--%s: %s", entry->name, why);
}

static int parse_pass(const option *entry, const char *text, int32_t *pass)
{
    int i;
    for (i = 0; i < PASS_WORDS; i++) {
        if (strcmp(text, pass_words[i].word) != 0) continue;
        *pass = pass_words[i].pass;
        return EXIT_PASS;
    }
    return fail("--%s \"%s\" is none of: %s", entry->name, text, entry->help);
}

static int parse_value(const option *entry, const char *text, options *opt)
{
    void *field = (char *)opt + entry->offset;
    if (*text == '\0') return fail("--%s wants a value", entry->name);
    switch (entry->kind) {
    case KIND_AXES: return parse_axes(entry, text, (int64_t *)field);
    case KIND_NUMBER: return parse_number(entry, text, (int64_t *)field);
    case KIND_SEED: return parse_seed(entry, text, (uint64_t *)field);
    case KIND_WORD:
    case KIND_WORDS: return parse_words(entry, text, (word_list *)field);
    case KIND_THEN: return parse_list(entry, text, (convt3d_op *)field);
    case KIND_PASS: return parse_pass(entry, text, (int32_t *)field);
    case KIND_TEXT: break;
    }
    memcpy(field, &text, sizeof text);
    return EXIT_PASS;
}

/* ---- the command line ---- */

static void set_defaults(options *opt, unsigned command)
{
    const word_list first = {1, {0}}, both = {2, {0, 1}};
    int a;
    memset(opt, 0, sizeof *opt);
    opt->command = command;
    opt->groups = 1;
    opt->batch = -1;
    opt->repeats = 5;
    opt->device = opt->dtype = opt->math = opt->layout = opt->scale = first;
    opt->data = both;
    for (a = 0; a < 3; a++) opt->stride[a] = opt->dilation[a] = 1;
}

static const option *find_option(const char *name, size_t length)
{
    int i;
    for (i = 0; i < OPTION_COUNT; i++) {
        const option *entry = &option_table[i];
        if (strlen(entry->name) == length && memcmp(entry->name, name, length) == 0) return entry;
    }
    return NULL;
}

/* One "--name value" or "--name=value" at argv[*i]; moves *i to the last argument that it used. */
static int parse_option(options *opt, int argc, char **argv, int *i, int seen[OPTION_COUNT])
{
    const char *command = find_command(opt->command)->name;
    const char *text = argv[*i] + 2;
    size_t length = strcspn(text, "=");
    const option *entry = find_option(text, length);
    if (!entry || !(entry->commands & opt->command)) {
        return fail("%s has no option --%.*s (see convt3d %s --help)", command, (int)length, text, command);
    }
    if (seen[entry - option_table]++) return fail("--%s is given twice", entry->name);
    if (text[length] == '=') return parse_value(entry, text + length + 1, opt);
    if (*i + 1 >= argc) return fail("--%s wants a value", entry->name);
    return parse_value(entry, argv[++*i], opt);
}

static int require_one(const char *name, const word_list *list)
{
    return list->count == 1 ? EXIT_PASS : fail("--%s: one value is wanted here", name);
}

/* Options that do not go together. */
static int check_options(const options *opt, const int seen[OPTION_COUNT])
{
    const char *command = find_command(opt->command)->name;
    int files = opt->x || opt->w || opt->bias, i;
    if (opt->command == CMD_RUN && opt->shape_count) return fail("run takes no argument \"%s\"", opt->shapes[0]);
    if (opt->command == CMD_RUN && !opt->out) return fail("run wants --out FILE");
    if ((opt->command == CMD_RUN || files) && !(opt->x && opt->w)) {
        return fail("%s wants --x FILE and --w FILE", command);
    }
    if (files && opt->shape_count) return fail("give either .npy files or shapes, not both");
    if (!files && !opt->shape_count) return fail("%s wants a SHAPE or @file (see convt3d %s --help)", command, command);
    for (i = 0; i < OPTION_COUNT && opt->command == CMD_CHECK; i++) {
        int of_files = (option_table[i].commands & CMD_RUN) && !(option_table[i].commands & CMD_EXPLAIN);
        int of_shapes = (option_table[i].commands & CMD_EXPLAIN) && !(option_table[i].commands & CMD_RUN);
        if (!seen[i]) continue;
        if (!files && of_files) return fail("--%s goes with --x and --w, not with a shape", option_table[i].name);
        if (files && of_shapes) return fail("--%s goes with a shape, not with files", option_table[i].name);
    }
    if (opt->kernel && strlen(opt->kernel) >= sizeof((convt3d_desc *)0)->force) return fail("--kernel is too long");
    if ((opt->command == CMD_RUN || files) && require_one("layout", &opt->layout)) return EXIT_USAGE;
    if ((opt->command == CMD_RUN || files) && require_one("math", &opt->math)) return EXIT_USAGE;
    return EXIT_PASS;
}

int options_parse(options *opt, unsigned command, int argc, char **argv)
{
    int seen[OPTION_COUNT] = {0}, i, status, count = 0, plain = 0;
    set_defaults(opt, command);
    for (i = 2; i < argc; i++) {
        const char *text = argv[i];
        if (!plain && (strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0)) {
            print_help(command);
            return -1;
        }
        if (!plain && strcmp(text, "--") == 0) {
            plain = 1;
        } else if (!plain && strncmp(text, "--", 2) == 0) {
            status = parse_option(opt, argc, argv, &i, seen);
            if (status) return status;
        } else if (!plain && text[0] == '-') {
            return fail("option \"%s\" is unknown (see convt3d --help)", text);
        } else {
            argv[count++] = argv[i];
        }
    }
    opt->shapes = (const char **)argv;
    opt->shape_count = count;
    opt->has_out_size = seen[find_option("out-size", 8) - option_table];
    return check_options(opt, seen);
}

void options_desc(const options *opt, convt3d_desc *desc)
{
    memset(desc, 0, sizeof *desc);
    desc->device = opt->device.value[0];
    desc->dtype = opt->dtype.value[0];
    desc->layout = opt->layout.value[0];
    desc->math = opt->math.value[0];
    desc->threads = (int32_t)opt->threads;
    memcpy(desc->ops, opt->then, sizeof desc->ops);
    desc->backward = opt->pass;             /* what the forward pass keeps for it */
    if (opt->kernel) snprintf(desc->force, sizeof desc->force, "%s", opt->kernel);
}

/* ---- the problems ---- */

static int halve(convt3d_desc *desc)
{
    int a, changed = 0;
    for (a = 0; a < 3; a++) {
        if (desc->in_size[a] <= 4) continue;
        desc->in_size[a] = desc->in_size[a] / 2 > 4 ? desc->in_size[a] / 2 : 4;
        if (desc->fixed_out_size) desc->out_size[a] = (desc->out_size[a] + 1) / 2;
        changed = 1;
    }
    return changed;
}

static int halve_depth(convt3d_desc *desc)
{
    if (desc->in_size[0] <= 1) return 0;
    desc->in_size[0] /= 2;
    if (desc->fixed_out_size) desc->out_size[0] = (desc->out_size[0] + 1) / 2;
    return 1;
}

/* --scale small and cpu. A problem that cannot be planned stays as it is: its user says why. */
static void scale_down(convt3d_desc *desc, int scale)
{
    convt3d_plan plan;
    convt3d_info info;
    if (desc->batch > 1) desc->batch = 1;
    do {
        convt3d_desc probe = *desc;
        probe.device = CONVT3D_DEVICE_CPU;
        probe.force[0] = '\0';
        if (convt3d_plan_init(&plan, &probe, CONVT3D_FORWARD, NULL) != CONVT3D_OK) return;
        if (convt3d_plan_info(&plan, &info, NULL) != CONVT3D_OK) return;
        if (scale == SCALE_SMALL ? info.flops < 2e9 && info.bytes < 100e6 : info.flops < 20e9) return;
    } while (scale == SCALE_SMALL ? halve(desc) : halve_depth(desc));
}

/* y as the first channels of a wider buffer. A problem that has no output size is refused when it is planned. */
static void set_y_stride(convt3d_desc *desc, int64_t channels)
{
    int64_t out[3];
    if (channels == 0 || convt3d_output_size(desc, out, NULL) != CONVT3D_OK) return;
    desc->y_stride[1] = desc->layout == CONVT3D_NDHWC ? 1 : out[0] * out[1] * out[2];
    desc->y_stride[4] = desc->layout == CONVT3D_NDHWC ? channels : 1;
    desc->y_stride[3] = out[2] * desc->y_stride[4];
    desc->y_stride[2] = out[1] * desc->y_stride[3];
    desc->y_stride[0] = channels * out[0] * out[1] * out[2];
}

/* Every combination of the option lists for one problem: its final form. */
static int add_variants(const options *opt, const shape_case *row, shape_case **cases, size_t *count)
{
    int i, variants = opt->dtype.count * opt->layout.count * opt->math.count;
    for (i = 0; i < variants; i++) {
        shape_case variant = *row;
        convt3d_desc *desc = &variant.desc;
        desc->math = opt->math.value[i % opt->math.count];
        desc->layout = opt->layout.value[i / opt->math.count % opt->layout.count];
        desc->dtype = opt->dtype.value[i / opt->math.count / opt->layout.count];
        if (opt->batch >= 0) desc->batch = opt->batch;
        if (opt->scale.value[0] != SCALE_FULL) scale_down(desc, opt->scale.value[0]);
        set_y_stride(desc, variant.y_channels);
        if (shape_append(cases, count, &variant)) return fail("out of memory");
    }
    return EXIT_PASS;
}

/* The problems of one argument, SHAPE or @file. */
static int read_argument(const char *text, const convt3d_desc *base, shape_case **rows, size_t *count)
{
    char message[512];
    shape_case row;
    memset(&row, 0, sizeof row);
    row.desc = *base;
    if (text[0] == '@') {
        return shape_read_csv(text + 1, base, rows, count, message, sizeof message) ? fail("%s", message) : EXIT_PASS;
    }
    if (shape_parse(text, &row.desc, message, sizeof message)) return fail("shape \"%.200s\": %s", text, message);
    return shape_append(rows, count, &row) ? fail("out of memory") : EXIT_PASS;
}

int options_cases(const options *opt, shape_case **cases, size_t *count)
{
    convt3d_desc base;
    shape_case *rows = NULL;
    size_t row_count = 0, r;
    int i, status = EXIT_PASS;
    *cases = NULL;
    *count = 0;
    options_desc(opt, &base);
    for (i = 0; !status && i < opt->shape_count; i++) status = read_argument(opt->shapes[i], &base, &rows, &row_count);
    for (r = 0; !status && r < row_count; r++) status = add_variants(opt, &rows[r], cases, count);
    free(rows);
    return status;
}

const char *case_label(const shape_case *row, char *text)
{
    if (row->name[0]) return row->name;
    shape_format(&row->desc, text, SHAPE_TEXT);
    return text;
}

void progress(size_t done, size_t total, const char *what)
{
    if (!platform_is_terminal(stderr)) return;
    if (done) fprintf(stderr, "\r[%zu/%zu] %.60s\033[K", done, total, what);
    else fprintf(stderr, "\r\033[K");
    fflush(stderr);
}
