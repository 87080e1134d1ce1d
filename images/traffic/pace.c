/*
 * How fast a worker opens its flows: quickly where the path is long, gently where a queue or a slow server fills up.
 *
 * neper waits for each connect of a thread before it begins the next. That is gentle, but on a path of 50 ms it
 * takes minutes to open 10,000 flows; all at once, on the other hand, the SYNs alone overflow the queue under
 * test, and the ones lost come again only after seconds. So the number under way grows while connects take
 * hardly longer than the quickest one did, and shrinks as soon as they take much longer, that is, when they
 * begin to queue somewhere.
 */
#include "pace.h"

#define MOST_UNDER_WAY 64.0 /* of all workers together */
#define NOISE (NANOS_PER_MILLI / 5)
#define PATIENCE (100 * NANOS_PER_MILLI)

void pace_init(struct pace *pace, const struct options *options, uint32_t workers)
{
	double window = (double)options->connect_window, most = MOST_UNDER_WAY / workers;

	if (options->async_connect)
		window = (double)options->num_flows;
	*pace = (struct pace){.window = window, .limit = window > most ? window : most};
}

bool pace_allows(const struct pace *pace)
{
	return pace->under_way + 1 <= pace->window;
}

void pace_began(struct pace *pace)
{
	pace->under_way++;
}

static void shrink(struct pace *pace)
{
	pace->window = pace->window > 2 ? pace->window / 2 : 1;
}

void pace_connected(struct pace *pace, nanos took)
{
	pace->under_way--;
	if (!pace->quickest || took < pace->quickest)
		pace->quickest = took;
	if (took > 4 * (pace->quickest + NOISE))
		shrink(pace);
	else if (took <= 2 * pace->quickest + NOISE && pace->window < pace->limit)
		pace->window += 1 / pace->window;
}

void pace_failed(struct pace *pace)
{
	pace->under_way--;
	shrink(pace);
}

nanos pace_patience(const struct pace *pace)
{
	return 3 * pace->quickest > PATIENCE ? 3 * pace->quickest : PATIENCE;
}

void pace_overdue(struct pace *pace)
{
	pace->under_way--;
	shrink(pace);
}
