/* explain.c - `convt3d explain`: the library's own account of each problem. */
#include "commands.h"

static int explain_one(const shape_case *row, int32_t pass, int titled)
{
    convt3d_error error;
    char label[SHAPE_TEXT], *text;
    size_t needed = 0;
    if (convt3d_explain(&row->desc, pass, NULL, 0, &needed, &error)) {
        return fail("%.200s: %s", case_label(row, label), error.text);
    }
    text = (char *)malloc(needed + 1);
    if (!text) return fail("out of memory");
    if (convt3d_explain(&row->desc, pass, text, needed + 1, NULL, &error)) {
        free(text);
        return fail("%.200s: %s", case_label(row, label), error.text);
    }
    if (titled) printf("# %s\n", case_label(row, label));
    printf("%s%s", text, titled ? "\n" : "");
    free(text);
    return EXIT_PASS;
}

int command_explain(const options *opt)
{
    shape_case *cases;
    size_t count, c;
    int status = options_cases(opt, &cases, &count);
    for (c = 0; !status && c < count; c++) status = explain_one(&cases[c], opt->pass, count > 1);
    free(cases);
    return status;
}
