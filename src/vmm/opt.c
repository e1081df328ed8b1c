/* SPDX-License-Identifier: MIT */
#include "vmm/opt.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "vmm/vmm.h"

enum opt_type { OPT_STR, OPT_SIZE, OPT_UINT, OPT_FLAG, OPT_LIST };

struct opt_row {
	const char *name;
	const char *arg;
	const char *help;
	size_t offset;
	u64 min, max;
	enum opt_type type;
	char letter;
};

static const struct opt_row rows[] = {
#define OPT(type, field, letter, name, arg, def, min, max, help) \
	{ name, arg, help, offsetof(struct run_options, field), min, max, OPT_##type, letter },
#include "spec/cli.def"
#undef OPT
};

static void set_defaults(struct run_options *o)
{
	memset(o, 0, sizeof(*o));
#define OPT_DEF_STR(field, def) o->field = (const char *)(def)
#define OPT_DEF_SIZE(field, def) o->field = (def)
#define OPT_DEF_UINT(field, def) o->field = (def)
#define OPT_DEF_FLAG(field, def) o->field = (def)
#define OPT_DEF_LIST(field, def) o->field.n = 0
#define OPT(type, field, letter, name, arg, def, min, max, help) OPT_DEF_##type(field, def);
#include "spec/cli.def"
#undef OPT
}

/* Digits only: strtoull() would take a sign and leading blanks. */
static const char *digits(const char *s, u64 *out)
{
	u64 v = 0;

	if (!isdigit((unsigned char)*s))
		return NULL;
	for (; isdigit((unsigned char)*s); s++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (u64)(*s - '0'), &v))
			return NULL;
	*out = v;
	return s;
}

bool opt_size(const char *text, u64 unit, u64 *out)
{
	static const char suffix[] = "KMGT";
	const char *end = digits(text, out);

	if (!end)
		return false;
	if (*end) {
		const char *p = strchr(suffix, toupper((unsigned char)*end));

		if (!p || end[1])
			return false;
		unit = 1ull << (10 * (p - suffix + 1));
	}
	return !__builtin_mul_overflow(*out, unit, out) && *out < BIT(63);
}

static int set_number(const struct opt_row *r, const char *val, u64 *field)
{
	u64 v;
	const char *end = digits(val, &v);
	bool good = r->type == OPT_SIZE ? opt_size(val, 1 << 20, &v) : end && !*end;

	if (!good)
		return vmm_error(EXIT_USAGE, "--%s: '%s' is not a %s", r->name, val,
				 r->type == OPT_SIZE ? "size" : "number");
	if (v < r->min || v > r->max) {
		if (r->type == OPT_SIZE)
			return vmm_error(EXIT_USAGE, "--%s: %s is not between %lluM and %lluG", r->name, val,
					 (unsigned long long)r->min >> 20, (unsigned long long)r->max >> 30);
		return vmm_error(EXIT_USAGE, "--%s: %s is not between %llu and %llu", r->name, val,
				 (unsigned long long)r->min, (unsigned long long)r->max);
	}
	*field = v;
	return 0;
}

static int set_value(struct run_options *o, const struct opt_row *r, const char *val)
{
	void *field = (char *)o + r->offset;
	struct opt_list *list = field;

	switch (r->type) {
	case OPT_STR:
		*(const char **)field = val;
		return 0;
	case OPT_LIST:
		if (list->n == OPT_LIST_MAX)
			return vmm_error(EXIT_USAGE, "--%s: at most %d of them", r->name, OPT_LIST_MAX);
		list->item[list->n++] = val;
		return 0;
	case OPT_FLAG:
		*(bool *)field = true;
		return 0;
	case OPT_SIZE:
	case OPT_UINT:
		break;
	}
	return set_number(r, val, field);
}

static const struct opt_row *find_long(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (strlen(rows[i].name) == len && !strncmp(rows[i].name, name, len))
			return &rows[i];
	return NULL;
}

static const struct opt_row *find_letter(char c)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (c && rows[i].letter == c)
			return &rows[i];
	return NULL;
}

/* Splits one argument into its row and, when attached, its value: --name=value or -nvalue. */
static const struct opt_row *find(const char *a, const char **val)
{
	const struct opt_row *r;
	const char *eq;

	*val = NULL;
	if (a[1] == '-') {
		eq = strchrnul(a + 2, '=');
		if (*eq)
			*val = eq + 1;
		return find_long(a + 2, (size_t)(eq - a - 2));
	}
	r = find_letter(a[1]);
	if (r && a[2])
		*val = a + 2;
	return r;
}

int opt_parse(struct run_options *o, int argc, char **argv)
{
	set_defaults(o);
	for (int i = 0; i < argc; i++) {
		const char *val;
		const struct opt_row *r;
		int rc;

		if (argv[i][0] != '-' || !argv[i][1])
			return vmm_error(EXIT_USAGE, "unexpected argument '%s' (see casement run --help)", argv[i]);
		r = find(argv[i], &val);
		if (!r)
			return vmm_error(EXIT_USAGE, "unknown option '%s' (see casement run --help)", argv[i]);
		if (r->type == OPT_FLAG && val)
			return vmm_error(EXIT_USAGE, "--%s takes no value", r->name);
		if (r->type != OPT_FLAG && !val) {
			if (i + 1 == argc)
				return vmm_error(EXIT_USAGE, "--%s needs %s", r->name, r->arg);
			val = argv[++i];
		}
		rc = set_value(o, r, val);
		if (rc)
			return rc;
	}
	return 0;
}

static void print_default(FILE *f, const struct opt_row *r)
{
	struct run_options o;
	const void *field = (const char *)&o + r->offset;

	set_defaults(&o);
	if (r->type == OPT_STR && *(const char *const *)field)
		fprintf(f, " (default: %s)", *(const char *const *)field);
	if (r->type == OPT_SIZE)
		fprintf(f, " (default: %lluM)", (unsigned long long)*(const u64 *)field >> 20);
	if (r->type == OPT_UINT && *(const u64 *)field)
		fprintf(f, " (default: %llu)", (unsigned long long)*(const u64 *)field);
}

void opt_help(FILE *f)
{
	fprintf(f, "usage: casement run -k KERNEL [options]\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct opt_row *r = &rows[i];

		if (r->letter)
			fprintf(f, "  -%c, --%s%s%s\n", r->letter, r->name, r->arg ? " " : "", r->arg ? r->arg : "");
		else
			fprintf(f, "      --%s%s%s\n", r->name, r->arg ? " " : "", r->arg ? r->arg : "");
		fprintf(f, "\t%s", r->help);
		print_default(f, r);
		fprintf(f, "\n");
	}
	fprintf(f, "\nKeys on the console: Ctrl-A x quit, Ctrl-A p power button, Ctrl-A h help, "
		   "Ctrl-A Ctrl-A sends Ctrl-A.\n"
		   "Exit codes: 0 powered off or reset, 1 usage, 2 host, 3 guest crashed, 4 "
		   "containment or --timeout.\n");
}

void opt_manual(FILE *f)
{
	fprintf(f, ".Bl -tag -width Ds\n");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct opt_row *r = &rows[i];

		fprintf(f, ".It ");
		if (r->letter)
			fprintf(f, "Fl %c , ", r->letter);
		fprintf(f, "Fl Fl %s", r->name);
		if (r->arg)
			fprintf(f, " Ar %s", r->arg);
		fprintf(f, "\n%c%s", toupper((unsigned char)r->help[0]), r->help + 1);
		print_default(f, r);
		fprintf(f, ".\n");
	}
	fprintf(f, ".El\n");
}

bool opt_next(const char **cursor, char *buf, size_t size)
{
	const char *s = *cursor;
	const char *end = strchrnul(s, ',');
	size_t len = (size_t)(end - s);

	if (!*s || len >= size)
		return false;
	memcpy(buf, s, len);
	buf[len] = 0;
	*cursor = *end ? end + 1 : end;
	return true;
}
