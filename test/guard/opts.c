/* SPDX-License-Identifier: MIT */
/* The option language: values, errors that list what is accepted, the administrator's file. */
#include "tap.h"

#include "guard/opts.h"

static char err[1024];

static int parse(struct guard_opts *o, const char *list)
{
	err[0] = 0;
	return guard_opts_parse(o, list, OPTS_USER, err, sizeof(err));
}

static void refused(const char *list, const char *says)
{
	struct guard_opts o;

	guard_opts_default(&o);
	ok(parse(&o, list) < 0 && strstr(err, says) && !strchr(err, '\n'), "%s is refused: %s", list, err);
}

static void values(void)
{
	struct guard_opts o;
	char buf[64];

	guard_opts_default(&o);
	ok(o.notify_threshold == 131072 && o.engine == ENGINE_JIT && !o.set, "defaults");
	is(parse(&o, "notify-window=7,fidelity=strict"), 0, "two options");
	ok(o.notify_window == 7 && o.fidelity == FIDELITY_STRICT, "both are there");
	is(parse(&o, "notify-window=9,nonsense=1"), -EINVAL, "a list with an error");
	is(o.notify_window, 7, "changes nothing");
	is(guard_opts_get(&o, "fidelity", buf, sizeof(buf)), 6, "one value as text");
	is_str(buf, "strict", "as it was given");
	refused("nonsense=1", "there are engine, clock,");
	refused("fidelity=loose", "not one of parity|strict");
	refused("notify-window=-1", "not a number from 0 to 4294967295");
	refused("notify-window=4294967296", "not a number from 0 to 4294967295");
	refused("notify-window=", "not a number");
	refused("notify-window=1x", "not a number");
	refused("fidelity", "not one of");
}

static void admin(void)
{
	char path[] = "/tmp/casement-opts-XXXXXX";
	int fd = mkstemp(path);
	FILE *f = fdopen(fd, "w");
	struct guard_opts o;

	fprintf(f, "# the house's rules\n\nfidelity=strict\nfloor notify-window=1000 # no more\n");
	fclose(f);
	guard_opts_default(&o);
	is(guard_opts_file(&o, path, err, sizeof(err)), 0, "an administrator's file");
	ok(o.notify_window == 1000 && o.fidelity == FIDELITY_STRICT, "its values are defaults");
	is(parse(&o, "fidelity=parity"), 0, "a default can be changed");
	is(parse(&o, "notify-window=500"), 0, "a floor can be tightened");
	ok(parse(&o, "notify-window=1001") < 0 && strstr(err, "floor is notify-window=1000"),
	   "but not relaxed: %s", err);
	f = fopen(path, "w");
	fprintf(f, "notify-window=-1\n");
	fclose(f);
	guard_opts_default(&o);
	is(guard_opts_file(&o, path, err, sizeof(err)), 0, "window -1 is the administrator's");
	ok(o.notify_forbidden, "and takes the feature away");
	f = fopen(path, "w");
	fprintf(f, "fidelity=strict\nwindow=1\n");
	fclose(f);
	guard_opts_default(&o);
	ok(guard_opts_file(&o, path, err, sizeof(err)) < 0 &&
		   strstr(err, ":2: unknown option 'window'"),
	   "an error has its line: %s", err);
	is(o.fidelity, FIDELITY_PARITY, "and nothing is taken");
	unlink(path);
	is(guard_opts_file(&o, path, err, sizeof(err)), 0, "no file is no error");
}

int main(void)
{
	values();
	admin();
	return done_testing();
}
