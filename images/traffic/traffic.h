/*
 * The way into both programs.
 */
#ifndef TRAFFIC_TRAFFIC_H
#define TRAFFIC_TRAFFIC_H

#include "run.h"

/* All of main() for the program that is @tool. */
int traffic_main(const struct tool *tool, int argc, char **argv);

#endif
