/* main.c - `convt3d`, the command line: run, check, explain, bench. */
#include "commands.h"

static const struct {
    const char *name, *what;
    unsigned command;
    int (*call)(const options *opt);
} commands[] = {
    {"run", "transposed convolution of .npy files", CMD_RUN, command_run},
    {"check", "compare a kernel with an oracle", CMD_CHECK, command_check},
    {"explain", "say what the library does with a problem", CMD_EXPLAIN, command_explain},
    {"bench", "time problems against the machine's ceilings", CMD_BENCH, command_bench},
};

enum { COMMANDS = sizeof commands / sizeof commands[0] };

static int print_overview(void)
{
    int i;
    printf("usage: convt3d COMMAND ...\n3-D transposed convolution, version %s.\n\n", convt3d_version());
    for (i = 0; i < COMMANDS; i++) printf("  %-8s %s\n", commands[i].name, commands[i].what);
    printf("\nconvt3d COMMAND --help says more. Exit status: 0 done or all pass, 1 a case fails, 2 bad arguments or "
           "files.\n");
    return EXIT_PASS;
}

static int dispatch(int argc, char **argv)
{
    options opt;
    int i, status;
    if (argc < 2) return fail("a command is wanted: run, check, explain or bench (see convt3d --help)");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) return print_overview();
    if (strcmp(argv[1], "--version") == 0) {
        printf("convt3d %s\n", convt3d_version());
        return EXIT_PASS;
    }
    for (i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) != 0) continue;
        status = options_parse(&opt, commands[i].command, argc, argv);
        if (status) return status < 0 ? EXIT_PASS : status;
        return commands[i].call(&opt);
    }
    return fail("\"%s\" is none of run, check, explain, bench (see convt3d --help)", argv[1]);
}

int main(int argc, char **argv)
{
    int status = dispatch(argc, argv);
    if (fflush(stdout) != 0 || ferror(stdout)) return fail("standard output: %s", strerror(errno));
    return status;
}
