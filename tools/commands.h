/* commands.h - the subcommands. Each returns what the process exits with. */
#ifndef TOOLS_COMMANDS_H
#define TOOLS_COMMANDS_H

#include "args.h"

int command_run(const options *opt);
int command_check(const options *opt);
int command_explain(const options *opt);
int command_bench(const options *opt);

#endif
