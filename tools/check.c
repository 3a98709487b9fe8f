/* check.c - `convt3d check`: kernels against the oracle of tests/, each case with a line that reproduces it. */
#include "commands.h"
#include "tensors.h"
#include "then.h"

#include "../tests/check_backward.h"

typedef struct check_summary { int64_t passed, failed, refused; } check_summary;

/* ---- the reproducer line ---- */

/* An argument as a POSIX shell reads it back. */
static void print_quoted(const char *text)
{
    const char *plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./,+:=@";
    if (*text && text[strspn(text, plain)] == '\0') {
        printf("%s", text);
        return;
    }
    putchar('\'');
    for (; *text; text++) {
        if (*text == '\'') printf("'\\''");
        else putchar(*text);
    }
    putchar('\'');
}

static void print_option(const char *name, const char *value)
{
    printf(" --%s ", name);
    print_quoted(value);
}

static void print_axes(const char *name, const int64_t v[3])
{
    printf(" --%s=%" PRId64 ",%" PRId64 ",%" PRId64, name, v[0], v[1], v[2]);
}

static void print_files(const options *opt, const convt3d_desc *desc)
{
    print_option("x", opt->x);
    print_option("w", opt->w);
    if (opt->bias) print_option("bias", opt->bias);
    print_axes("stride", desc->stride);
    print_axes("padding", desc->padding);
    print_axes("output-padding", desc->output_padding);
    print_axes("dilation", desc->dilation);
    if (desc->fixed_out_size) print_axes("out-size", desc->out_size);
    printf(" --groups %" PRId64, desc->groups);
}

static void print_reproducer(const options *opt, const check_request *request, const char *kernel)
{
    const convt3d_desc *desc = &request->desc;
    char shape[SHAPE_TEXT], then[THEN_TEXT];
    printf("      convt3d check");
    if (request->x) {
        print_files(opt, desc);
    } else {
        shape_format(desc, shape, sizeof shape);
        printf(" %s --dtype %s --data %s --seed %" PRIu64, shape, dtype_name(desc->dtype),
               data_name(request->exact ? DATA_EXACT : DATA_REAL), request->seed);
    }
    printf(" --layout %s --device %s", layout_name(desc->layout), device_name(desc->device));
    if (desc->math != CONVT3D_ACCURATE) printf(" --math %s", math_name(desc->math));
    if (desc->threads) printf(" --threads %" PRId32, desc->threads);
    then_format(desc->ops, then, sizeof then);
    if (then[0]) print_option("then", then);
    if (opt->pass != CONVT3D_FORWARD) print_option("pass", pass_name(opt->pass));
    if (kernel[0]) print_option("kernel", kernel);
    printf("\n");
}

/* ---- one case ---- */

/* The gradients of one problem that the pass names. */
static void backward_one(const options *opt, const check_request *request, check_result *result)
{
    const uint32_t wanted = opt->pass == CONVT3D_BACKWARD ? ~0u : opt->pass == CONVT3D_BACKWARD_X ? 1 : 6;
    backward_run run;
    convt3d_plan plan;
    convt3d_info info;
    convt3d_error error;
    memset(result, 0, sizeof *result);
    result->status = convt3d_plan_init(&plan, &request->desc, opt->pass, &error);
    if (result->status == CONVT3D_OK) result->status = convt3d_plan_info(&plan, &info, &error);
    if (result->status != CONVT3D_OK) {
        check_fail(result, error.text);
        return;
    }
    result->status = backward_make(&run, request, &error);
    if (result->status != CONVT3D_OK) check_fail(result, error.text);
    else if (backward_expect(&run, CHECK_FULL_PRODUCTS)) backward_check(&run, wanted, NULL, result);
    else check_fail(result, "out of memory for the oracle of this case");
    if (!info.weight_kernel[0] || !strcmp(info.kernel, info.weight_kernel))
        memcpy(result->kernel, info.kernel, sizeof result->kernel);
    else snprintf(result->kernel, sizeof result->kernel, "%.15s, %.14s", info.kernel, info.weight_kernel);
    backward_free(&run);
}

static void print_result(const check_request *request, const check_result *result, const char *label)
{
    const int64_t *at = result->worst;
    printf("%s  %s  %s %s %s  %s  checked %" PRId64 "/%" PRId64 "  worst %s[%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64
           ",%" PRId64 "] = %.9g  error %.3g  allowed %.3g\n",
           result->pass ? "pass" : "FAIL", label, dtype_name(request->desc.dtype), layout_name(request->desc.layout),
           request->x ? "files" : data_name(request->exact ? DATA_EXACT : DATA_REAL), result->kernel, result->checked,
           result->total, result->gradient ? result->gradient : "y",
           at[0], at[1], at[2], at[3], at[4], result->got, result->error, result->bound);
    if (!result->pass) printf("      %s\n", result->message);
}

/* The oracle reports its own shortage of memory by message alone. */
static int is_out_of_memory(const check_result *result)
{
    return result->status == CONVT3D_OUT_OF_MEMORY || strncmp(result->message, "out of memory", 13) == 0;
}

static int check_one(const options *opt, const check_request *request, const char *label, check_summary *summary)
{
    check_result result;
    if (opt->pass == CONVT3D_FORWARD) check_case(request, &result);
    else backward_one(opt, request, &result);
    progress(0, 0, "");
    if (result.status == CONVT3D_REFUSED) {
        summary->refused++;
        printf("refused  %s  %s\n", label, result.message);
        return EXIT_PASS;
    }
    if (!result.pass && (is_out_of_memory(&result) || result.status != CONVT3D_OK)) {
        return fail("%.200s: %s", label, result.message);
    }
    if (result.pass) summary->passed++;
    else summary->failed++;
    print_result(request, &result, label);
    print_reproducer(opt, request, opt->pass == CONVT3D_FORWARD ? result.kernel : opt->kernel ? opt->kernel : "");
    fflush(stdout);
    return EXIT_PASS;
}

/* ---- all cases ---- */

static int check_files(const options *opt, check_summary *summary)
{
    tensors t;
    check_request request;
    int status = tensors_load(opt, &t);
    memset(&request, 0, sizeof request);
    if (!status) {
        request.desc = t.desc;
        request.x = t.x.data;
        request.w = t.w.data;
        request.bias = t.bias.data;
        status = check_one(opt, &request, opt->x, summary);
    }
    tensors_free(&t);
    return status;
}

/* A problem that makes no sense is reported before hours of others have run. */
static int plan_all(const shape_case *cases, size_t count, int32_t pass)
{
    convt3d_plan plan;
    convt3d_error error;
    char label[SHAPE_TEXT];
    size_t c;
    for (c = 0; c < count; c++) {
        convt3d_status status = convt3d_plan_init(&plan, &cases[c].desc, pass, &error);
        if (status == CONVT3D_OK || status == CONVT3D_REFUSED) continue;
        return fail("%.200s: %s", case_label(&cases[c], label), error.text);
    }
    return EXIT_PASS;
}

static int check_shapes(const options *opt, check_summary *summary)
{
    shape_case *cases;
    check_request request;
    char label[SHAPE_TEXT];
    size_t count, c;
    int status = options_cases(opt, &cases, &count), d;
    if (!status) status = plan_all(cases, count, opt->pass);
    memset(&request, 0, sizeof request);
    request.seed = opt->seed;
    for (c = 0; !status && c < count; c++) {
        const char *name = case_label(&cases[c], label);
        request.desc = cases[c].desc;
        progress(c + 1, count, name);
        for (d = 0; !status && d < opt->data.count; d++) {
            request.exact = opt->data.value[d] == DATA_EXACT;
            status = check_one(opt, &request, name, summary);
        }
    }
    progress(0, 0, "");
    free(cases);
    return status;
}

int command_check(const options *opt)
{
    check_summary summary = {0, 0, 0};
    int status = opt->x ? check_files(opt, &summary) : check_shapes(opt, &summary);
    if (status) return status;
    printf("%" PRId64 " passed, %" PRId64 " failed", summary.passed, summary.failed);
    if (summary.refused) printf(", %" PRId64 " refused", summary.refused);
    printf("\n");
    return summary.failed || summary.refused ? EXIT_FAIL : EXIT_PASS;
}
