/*
 * The program tcp_stream.
 */
#include "traffic.h"

int main(int argc, char **argv)
{
	return traffic_main(&stream_tool, argc, argv);
}
