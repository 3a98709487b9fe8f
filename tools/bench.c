/* bench.c - `convt3d bench`: times every problem on a device, compares with the floor, prints a table, writes JSON. */
#include "bench.h"

#include "then.h"
#include "commands.h"
#include "platform.h"

#include <math.h>
#include <time.h>

typedef struct bench_row {
    const shape_case *problem;
    convt3d_info info;
    bench_time time;
    double gflops, gbps, floor_ms, fraction;
} bench_row;

typedef struct bench_report {
    char machine[128];
    bench_ceilings ceilings;
    int threads;
    const char *peer;                   /* name and version, or NULL */
    bench_row *rows;
    size_t count;
} bench_report;

static const bench_device *const devices[] = {
    &bench_cpu,
#ifdef TOOLS_CUDA
    &bench_cuda,
#endif
};

/* ---- measuring ---- */

static const bench_device *find_device(int device)
{
    size_t i;
    for (i = 0; i < sizeof devices / sizeof devices[0]; i++) {
        if (devices[i]->device == device) return devices[i];
    }
    return NULL;
}

/* A problem without work, or a clock too coarse, gives zeros and never an infinity. */
static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

static void rate_row(const bench_device *device, const bench_ceilings *ceilings, bench_row *row)
{
    const convt3d_desc *desc = &row->problem->desc;
    double copy_ms = ratio(row->info.bytes, ceilings->copy_gbps * 1e6);
    double math_ms = ratio(row->info.flops, ceilings->gflops[desc->dtype][desc->math] * 1e6);
    row->floor_ms = copy_ms > math_ms ? copy_ms : math_ms;
    if (row->floor_ms < device->least_ms) row->floor_ms = device->least_ms;
    row->gflops = ratio(row->info.flops, row->time.ms * 1e6);
    row->gbps = ratio(row->info.bytes, row->time.ms * 1e6);
    row->fraction = ratio(row->floor_ms, row->time.ms);
}

/* Nothing is timed before every problem has been planned: a mistake shows at once. */
static int plan_all(const shape_case *cases, size_t count, int32_t pass)
{
    convt3d_plan plan;
    convt3d_error error;
    char label[SHAPE_TEXT];
    size_t c;
    for (c = 0; c < count; c++) {
        if (convt3d_plan_init(&plan, &cases[c].desc, pass, &error) == CONVT3D_OK) continue;
        return fail("%.200s: %s", case_label(&cases[c], label), error.text);
    }
    return EXIT_PASS;
}

static int measure(const options *opt, const bench_device *device, const shape_case *cases, bench_report *report)
{
    char label[SHAPE_TEXT];
    size_t c;
    int status;
    progress(1, report->count + 1, "ceilings");
    status = device->measure_ceilings(opt, &report->ceilings, report->machine);
    for (c = 0; !status && c < report->count; c++) {
        bench_row *row = &report->rows[c];
        row->problem = &cases[c];
        progress(c + 2, report->count + 1, case_label(&cases[c], label));
        status = device->time(opt, &cases[c].desc, case_label(&cases[c], label), &row->info, &row->time);
        if (!status) rate_row(device, &report->ceilings, row);
    }
    progress(0, 0, "");
    return status;
}

/* ---- the table ---- */

static int label_width(const bench_report *report)
{
    char label[SHAPE_TEXT];
    size_t c, width = 8;
    for (c = 0; c < report->count; c++) {
        size_t length = strlen(case_label(report->rows[c].problem, label));
        if (length > width) width = length;
    }
    return (int)width;
}

static void print_table(const bench_report *report)
{
    const bench_ceilings *ceilings = &report->ceilings;
    const int width = label_width(report);
    char label[SHAPE_TEXT];
    double logs = 0, peer_logs = 0;
    int peers = 0;
    size_t c;
    printf("%s, %d threads. Copy %.1f GB/s, f32 %.1f GFLOP/s, f64 %.1f GFLOP/s (%s).\n", report->machine,
           report->threads, ceilings->copy_gbps, ceilings->gflops[CONVT3D_F32][0], ceilings->gflops[CONVT3D_F64][0],
           ceilings->method);
    printf("%-*s  dtype layout  math      kernel              ms    GFLOP/s     GB/s   floor ms  fraction%s\n", width,
           "workload", report->peer ? "  packed ms    peer ms           speed-up" : "");
    for (c = 0; c < report->count; c++) {
        const bench_row *row = &report->rows[c];
        const convt3d_desc *desc = &row->problem->desc;
        printf("%-*s  %-5s %-7s %-8s  %-12s %9.3f  %9.2f %8.2f  %9.4f  %8.3f", width,
               case_label(row->problem, label), dtype_name(desc->dtype), layout_name(desc->layout),
               math_name(desc->math), row->info.kernel, row->time.ms, row->gflops, row->gbps, row->floor_ms,
               row->fraction);
        if (row->time.peer_ms > 0 && row->time.packed_ms > 0) {
            printf("  %9.3f  %9.3f %-8s  %8.3f", row->time.packed_ms, row->time.peer_ms, row->time.peer_how,
                   row->time.peer_ms / row->time.packed_ms);
            peer_logs += log(row->time.peer_ms / row->time.packed_ms);
            peers++;
        }
        printf("\n");
        logs += log(row->fraction > 0 ? row->fraction : 1);
    }
    printf("%-*s  geometric mean of the fraction of the floor: %.3f\n", width, "", exp(logs / (double)report->count));
    if (report->peer) {
        printf("%-*s  %d rows also by %s, weights prepacked on both sides, geometric mean of the speed-up: %.3f\n",
               width, "", peers, report->peer, peers ? exp(peer_logs / peers) : 0.0);
    }
}

/* ---- JSON ---- */

/* Whether text starts with a whole UTF-8 sequence of more than one byte: its length, or 0. */
static int utf8_length(const char *text)
{
    const unsigned char *c = (const unsigned char *)text;
    int length = c[0] < 0xC2 || c[0] > 0xF4 ? 0 : c[0] < 0xE0 ? 2 : c[0] < 0xF0 ? 3 : 4, i;
    for (i = 1; i < length; i++) {
        if ((c[i] & 0xC0) != 0x80) return 0;
    }
    if ((c[0] == 0xE0 && c[1] < 0xA0) || (c[0] == 0xED && c[1] > 0x9F)) return 0;       /* overlong, surrogate */
    if ((c[0] == 0xF0 && c[1] < 0x90) || (c[0] == 0xF4 && c[1] > 0x8F)) return 0;       /* overlong, too large */
    return length;
}

double bench_outputs(const convt3d_desc *desc, const convt3d_info *info)
{
    double outputs = (double)desc->batch * (double)desc->out_channels;
    int i;
    if (desc->y_stride[0] > 0) return (double)desc->batch * (double)desc->y_stride[0];
    for (i = 0; i < 3; i++) outputs *= (double)info->out_size[i];
    return outputs;
}

int bench_list(const convt3d_desc *desc, const convt3d_info *info, convt3d_op_io ops[CONVT3D_MAX_OPS],
               void *(*make)(void *context, double elements, int dtype), void *context)
{
    const int wide = desc->dtype == CONVT3D_F64 ? CONVT3D_F64 : CONVT3D_F32;
    const double channels = (double)desc->out_channels;
    double outputs = (double)desc->batch * channels;
    int i, made = 1;
    for (i = 0; i < 3; i++) outputs *= (double)info->out_size[i];
    for (i = 0; made && i < CONVT3D_MAX_OPS; i++) {
        int uses = convt3d_op_uses(desc->ops[i].kind);
        if (uses & CONVT3D_USES_RESIDUAL) made = (ops[i].residual = make(context, outputs, desc->dtype)) != NULL;
        if (!made || !(uses & CONVT3D_USES_SCALE)) continue;
        ops[i].scale = make(context, channels, wide);
        ops[i].shift = make(context, channels, wide);
        made = ops[i].scale && ops[i].shift;
    }
    return made;
}

int bench_list_backward(const convt3d_desc *desc, const convt3d_info *info, convt3d_op_io ops[CONVT3D_MAX_OPS],
                        void *(*make)(void *context, double elements, int dtype), void *context)
{
    const int wide = desc->dtype == CONVT3D_F64 ? CONVT3D_F64 : CONVT3D_F32;
    const double channels = (double)desc->out_channels;
    double outputs = (double)desc->batch * channels;
    int i, made = 1;
    for (i = 0; i < 3; i++) outputs *= (double)info->out_size[i];
    for (i = 0; made && i < CONVT3D_MAX_OPS; i++) {
        int uses = convt3d_op_uses(desc->ops[i].kind);
        double sets = desc->ops[i].groups ? (double)desc->batch * (double)desc->ops[i].groups : channels;
        if (uses & CONVT3D_USES_RESIDUAL) made = (ops[i].d_residual = make(context, outputs, desc->dtype)) != NULL;
        if (made && (uses & CONVT3D_USES_STATISTICS))
            made = (ops[i].mean = make(context, sets, wide)) && (ops[i].rstd = make(context, sets, wide));
        if (made && (uses & CONVT3D_USES_SCALE))
            made = (ops[i].d_scale = make(context, channels, wide)) && (ops[i].d_shift = make(context, channels, wide));
    }
    return made;
}

/* "name": "text". What is no UTF-8 becomes a question mark. */
static void json_text(FILE *file, const char *name, const char *text, const char *end)
{
    fprintf(file, "\"%s\": \"", name);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        int length = utf8_length(text);
        if (length) {
            fprintf(file, "%.*s", length, text);
            text += length - 1;
        } else if (c >= 128) fputc('?', file);
        else if (c == '"' || c == '\\') fprintf(file, "\\%c", c);
        else if (c < 32 || c == 127) fprintf(file, "\\u%04x", c);
        else fputc(c, file);
    }
    fprintf(file, "\"%s", end);
}

static void json_number(FILE *file, const char *name, double value, const char *end)
{
    fprintf(file, "\"%s\": %.9g%s", name, isfinite(value) ? value : 0.0, end);
}

static void json_row(FILE *file, const bench_row *row, int32_t pass)
{
    const convt3d_desc *desc = &row->problem->desc;
    char text[SHAPE_TEXT], then[THEN_TEXT];
    fprintf(file, "    {");
    json_text(file, "name", case_label(row->problem, text), ", ");
    shape_format(desc, text, sizeof text);
    json_text(file, "shape", text, ",\n     ");
    json_text(file, "device", device_name(desc->device), ", ");
    json_text(file, "kernel", row->info.kernel, ", ");
    if (row->info.weight_kernel[0]) json_text(file, "weight_kernel", row->info.weight_kernel, ", ");
    json_text(file, "dtype", dtype_name(desc->dtype), ", ");
    json_text(file, "layout", layout_name(desc->layout), ", ");
    json_text(file, "math", math_name(desc->math), ", ");
    json_text(file, "pass", pass_name(pass), ",\n     ");
    then_format(desc->ops, then, sizeof then);
    if (then[0]) json_text(file, "then", then, ", ");
    json_number(file, "ms", row->time.ms, ", ");
    json_number(file, "repeats", (double)row->time.repeats, ", ");
    if (row->time.packed_ms > 0) json_number(file, "packed_ms", row->time.packed_ms, ", ");
    if (row->time.peer_ms > 0) {
        json_number(file, "peer_ms", row->time.peer_ms, ", ");
        json_number(file, "peer_repeats", (double)row->time.peer_repeats, ", ");
        json_text(file, "peer_how", row->time.peer_how, ",\n     ");
    }
    json_number(file, "gflops", row->gflops, ", ");
    json_number(file, "gbps", row->gbps, ", ");
    json_number(file, "floor_ms", row->floor_ms, ", ");
    json_number(file, "fraction", row->fraction, "}");
}

static void json_ceilings(FILE *file, const bench_ceilings *ceilings)
{
    fprintf(file, "  \"ceilings\": {");
    json_number(file, "copy_gbps", ceilings->copy_gbps, ", ");
    json_number(file, "f32_gflops", ceilings->gflops[CONVT3D_F32][CONVT3D_ACCURATE], ", ");
    json_number(file, "tf32_gflops", ceilings->gflops[CONVT3D_F32][CONVT3D_TF32], ", ");
    json_number(file, "f64_gflops", ceilings->gflops[CONVT3D_F64][CONVT3D_ACCURATE], ", ");
    json_number(file, "f16_gflops", ceilings->gflops[CONVT3D_F16][CONVT3D_ACCURATE], ", ");
    json_number(file, "bf16_gflops", ceilings->gflops[CONVT3D_BF16][CONVT3D_ACCURATE], ",\n               ");
    if (ceilings->fma_gflops[0] > 0) {
        json_number(file, "f32_fma_gflops", ceilings->fma_gflops[0], ", ");
        json_number(file, "f64_fma_gflops", ceilings->fma_gflops[1], ", ");
    }
    json_text(file, "method", ceilings->method, "},\n");
}

static void json_report(FILE *file, const bench_report *report, int32_t pass)
{
    char date[32] = "";
    time_t now = time(NULL);
    struct tm *utc = gmtime(&now);
    size_t c;
    if (utc) strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", utc);
    fprintf(file, "{\n  \"meta\": {");
    json_text(file, "library", "convt3d", ", ");
    json_text(file, "version", convt3d_version(), ", ");
    json_number(file, "threads", report->threads, ", ");
    json_text(file, "machine", report->machine, ", ");
    if (report->peer) json_text(file, "peer", report->peer, ", ");
    json_text(file, "date", date, "},\n");
    json_ceilings(file, &report->ceilings);
    fprintf(file, "  \"results\": [\n");
    for (c = 0; c < report->count; c++) {
        json_row(file, &report->rows[c], pass);
        fprintf(file, c + 1 < report->count ? ",\n" : "\n");
    }
    fprintf(file, "  ]\n}\n");
}

/* ---- the command ---- */

/* The file is opened before anything is timed, so that a wrong path costs no time, and takes its name at the end. */
static int bench_cases(const options *opt, const bench_device *device, const shape_case *cases, bench_report *report)
{
    output_file json;
    int status;
    if (opt->json && output_open(&json, opt->json)) return fail("%s: %s", opt->json, strerror(errno));
    status = measure(opt, device, cases, report);
    if (!status) print_table(report);
    if (!opt->json) return status;
    if (status) {
        output_discard(&json);
        return status;
    }
    json_report(json.file, report, opt->pass);
    return output_commit(&json) ? fail("%s: %s", opt->json, strerror(errno)) : EXIT_PASS;
}

int command_bench(const options *opt)
{
    const bench_device *device = find_device(opt->device.value[0]);
    bench_report report;
    shape_case *cases;
    int status;
    memset(&report, 0, sizeof report);
    report.threads = platform_threads(opt->threads);
    status = options_cases(opt, &cases, &report.count);
    if (!status) status = plan_all(cases, report.count, opt->pass);
    if (!status && opt->peer.count && opt->pass != CONVT3D_FORWARD) status = fail("--peer goes with --pass forward");
    if (!status && opt->peer.count) {
#ifdef TOOLS_ONEDNN
        if (device != &bench_cpu) status = fail("--peer onednn goes with --device cpu");
        else if (!(report.peer = bench_onednn_version())) status = EXIT_USAGE;
#else
        status = fail("--peer onednn: this build has no oneDNN (its headers were missing)");
#endif
    }
    if (!status && !device) status = fail("bench cannot time device %s yet", device_name(opt->device.value[0]));
    if (!status) {
        report.rows = (bench_row *)calloc(report.count, sizeof *report.rows);
        status = report.rows ? bench_cases(opt, device, cases, &report) : fail("out of memory");
    }
    free(report.rows);
    free(cases);
    return status;
}
