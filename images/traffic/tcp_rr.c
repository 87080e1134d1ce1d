/*
 * The program tcp_rr.
 */
#include "traffic.h"

int main(int argc, char **argv)
{
	return traffic_main(&rr_tool, argc, argv);
}
