/* SPDX-License-Identifier: MIT */
#include "guard/opts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "guard/inject.h"

enum kind { KIND_ENUM, KIND_NUM, KIND_TEXT };
enum strict { SAME, UP, DOWN };

static const struct row {
	const char *key;
	const char *choices;	/* KIND_TEXT: the argument's name */
	const char *built;	/* KIND_ENUM: choices there are; else NULL: no value but the default */
	const char *help;
	size_t offset;
	u32 def, min, max;
	u8 kind, strict;
} rows[OPT_IDS] = {
#define OPT_ENUM(field, key_, choices_, def_, built_, strict_, help_)                            \
	[OPT_ID_##field] = { .key = key_, .choices = choices_, .built = built_, .help = help_,   \
			     .offset = offsetof(struct guard_opts, field), .def = (def_),        \
			     .kind = KIND_ENUM, .strict = strict_ },
#define OPT_NUM(field, key_, def_, min_, max_, built_, strict_, help_)                           \
	[OPT_ID_##field] = { .key = key_, .built = (built_) ? key_ : NULL, .help = help_,        \
			     .offset = offsetof(struct guard_opts, field), .def = (def_),        \
			     .min = (min_), .max = (max_), .kind = KIND_NUM, .strict = strict_ },
#define OPT_TEXT(field, key_, arg_, built_, help_)                                               \
	[OPT_ID_##field] = { .key = key_, .choices = arg_, .built = (built_) ? key_ : NULL,      \
			     .help = help_, .offset = offsetof(struct guard_opts, field),        \
			     .kind = KIND_TEXT },
#include "spec/opt.def"
};

/* A value on its way: what the parser made of the text. */
struct value {
	const struct row *row;
	const char *text;
	size_t len;
	u32 num, n;
	bool never;	/* notify-window=-1 */
};

static u32 *number(struct guard_opts *o, const struct row *r)
{
	return (u32 *)((char *)o + r->offset);
}

static char *text_of(struct guard_opts *o, const struct row *r)
{
	return (char *)o + r->offset;
}

void guard_opts_default(struct guard_opts *o)
{
	memset(o, 0, sizeof(*o));
	for (unsigned int i = 0; i < OPT_IDS; i++)
		if (rows[i].kind != KIND_TEXT)
			*number(o, &rows[i]) = rows[i].def;
}

/* ---- values ------------------------------------------------------------------------------------------- */

static const char *digits(const char *s, const char *end, u64 *out)
{
	u64 v = 0;

	if (s == end)
		return NULL;
	for (; s < end; s++) {
		if (*s < '0' || *s > '9' || v > 0xffffffffu)
			return NULL;
		v = v * 10 + (u64)(*s - '0');
	}
	*out = v;
	return s;
}

/* The choice that [s, s + len) names, or -1; its number in *n. "ratelimit:5" and "ratelimit=5" name "ratelimit:N". */
static int choice(const char *choices, const char *s, size_t len, u32 *n)
{
	int at = 0;

	for (const char *c = choices;; at++) {
		const char *end = strchrnul(c, '|');
		size_t clen = (size_t)(end - c);
		u64 v;

		if (clen > 2 && !strncmp(end - 2, ":N", 2)) {
			clen -= 2;
			if (len > clen && !strncmp(c, s, clen) && (s[clen] == ':' || s[clen] == '=') &&
			    digits(s + clen + 1, s + len, &v) && v && v <= 0xffffffffu) {
				*n = (u32)v;
				return at;
			}
		} else if (clen == len && !strncmp(c, s, len)) {
			return at;
		}
		if (!*end)
			return -1;
		c = end + 1;
	}
}

/* The name of choice number at. */
static const char *choice_name(const char *choices, u32 at, size_t *len)
{
	const char *c = choices;

	for (; at; at--)
		c = strchrnul(c, '|') + 1;
	*len = (size_t)(strchrnul(c, '|') - c);
	return c;
}

static bool choice_built(const struct row *r, u32 at)
{
	size_t len;
	const char *name = choice_name(r->choices, at, &len), *c = r->built;

	for (;;) {
		size_t clen = (size_t)(strchrnul(c, '|') - c);

		if (clen == len && !strncmp(c, name, len))
			return true;
		if (!c[clen])
			return false;
		c += clen + 1;
	}
}

static int bad(char *err, size_t n, const struct value *v, const char *what)
{
	snprintf(err, n, "%s=%.*s: %s", v->row->key, (int)v->len, v->text, what);
	return -EINVAL;
}

static int bad_value(char *err, size_t n, const struct value *v)
{
	const struct row *r = v->row;

	if (r->kind == KIND_ENUM)
		snprintf(err, n, "%s=%.*s: not one of %s", r->key, (int)v->len, v->text, r->choices);
	else
		snprintf(err, n, "%s=%.*s: not a number from %u to %u", r->key, (int)v->len, v->text, r->min, r->max);
	return -EINVAL;
}

static int check_injections(const struct value *v, char *err, size_t n)
{
	char what[OPT_TEXT_MAX], why[512];
	const char *at = what;
	struct injection i;
	int r;

	memcpy(what, v->text, v->len);
	what[v->len] = 0;
	while ((r = guard_inject_next(&at, &i, why, sizeof(why))) > 0)
		;
	if (r)
		snprintf(err, n, "inject: %s", why);
	return r;
}

static int parse_value(struct value *v, enum opts_source source, char *err, size_t n)
{
	const struct row *r = v->row;
	u64 num = 0;
	int at;

	if (r->kind == KIND_TEXT) {
		if (!v->len || v->len >= OPT_TEXT_MAX)
			return bad(err, n, v, "empty or too long");
		if (r == &rows[OPT_ID_inject])
			return check_injections(v, err, n);
		return r->built ? 0 : bad(err, n, v, "not built into this version");
	}
	if (r->kind == KIND_ENUM) {
		at = choice(r->choices, v->text, v->len, &v->n);
		if (at < 0)
			return bad_value(err, n, v);
		v->num = (u32)at;
		if (v->num != r->def && !choice_built(r, v->num))
			return bad(err, n, v, "not built into this version");
		return 0;
	}
	if (source == OPTS_ADMIN && r == &rows[OPT_ID_notify_window] && v->len == 2 && !strncmp(v->text, "-1", 2)) {
		v->never = true;
		return 0;
	}
	if (!digits(v->text, v->text + v->len, &num) || num < r->min || num > r->max)
		return bad_value(err, n, v);
	v->num = (u32)num;
	return r->built || v->num == r->def ? 0 : bad(err, n, v, "not built into this version");
}

/* Would the value be laxer than the administrator's floor? */
static bool laxer(const struct guard_opts *o, const struct value *v)
{
	unsigned int id = (unsigned int)(v->row - rows);

	if (!(o->floored >> id & 1))
		return false;
	if (v->row->strict == UP)
		return v->num < o->floor[id];
	if (v->row->strict == DOWN)
		return v->num > o->floor[id];
	return v->num != o->floor[id];
}

static int refuse_laxer(const struct guard_opts *o, const struct value *v, char *err, size_t n)
{
	const struct row *r = v->row;
	u32 floor = o->floor[r - rows];
	size_t len = 0;
	const char *name = "";

	if (r->kind == KIND_ENUM)
		name = choice_name(r->choices, floor, &len);
	if (r->kind == KIND_ENUM)
		snprintf(err, n, "%s=%.*s: the administrator's floor is %s=%.*s", r->key, (int)v->len, v->text, r->key,
			 (int)len, name);
	else
		snprintf(err, n, "%s=%.*s: the administrator's floor is %s=%u", r->key, (int)v->len,
			 v->text, r->key, floor);
	return -EINVAL;
}

static int append(struct guard_opts *o, const struct value *v, char *err, size_t n)
{
	char *t = text_of(o, v->row);
	size_t have = strlen(t);

	if (have + v->len + 2 > OPT_TEXT_MAX)
		return bad(err, n, v, "too long");
	if (have && v->row == &rows[OPT_ID_inject])
		t[have++] = '+';
	else
		have = 0;
	memcpy(t + have, v->text, v->len);
	t[have + v->len] = 0;
	return 0;
}

static int apply(struct guard_opts *o, const struct value *v, enum opts_source source, bool floor, char *err, size_t n)
{
	unsigned int id = (unsigned int)(v->row - rows);
	u32 *num = number(o, v->row);

	if (v->row->kind == KIND_TEXT) {
		if (floor)
			return bad(err, n, v, "a text has no floor");
		o->set |= BIT(id);
		return append(o, v, err, n);
	}
	if (v->never) {
		o->notify_forbidden = true;
		return 0;
	}
	if (source == OPTS_USER && laxer(o, v))
		return refuse_laxer(o, v, err, n);
	num[0] = v->num;
	if (v->row->kind == KIND_ENUM)
		num[1] = v->n;
	o->set |= BIT(id);
	if (floor) {
		o->floored |= BIT(id);
		o->floor[id] = v->num;
	}
	return 0;
}

/* ---- lists and files ---------------------------------------------------------------------------------------- */

static int unknown_key(const char *s, size_t len, char *err, size_t n)
{
	int at = snprintf(err, n, "unknown option '%.*s'; there are", (int)len, s);

	for (unsigned int i = 0; i < OPT_IDS && at > 0 && (size_t)at < n; i++)
		at += snprintf(err + at, n - (size_t)at, "%s %s", i ? "," : "", rows[i].key);
	return -EINVAL;
}

static int one(struct guard_opts *o, const char *s, size_t len, enum opts_source source, bool floor,
	       char *err, size_t n)
{
	const char *eq = memchr(s, '=', len);
	size_t klen = eq ? (size_t)(eq - s) : len;
	struct value v = { 0 };
	int r;

	for (unsigned int i = 0; i < OPT_IDS && !v.row; i++)
		if (strlen(rows[i].key) == klen && !strncmp(rows[i].key, s, klen))
			v.row = &rows[i];
	if (!v.row)
		return unknown_key(s, klen, err, n);
	v.text = eq ? eq + 1 : s + len;
	v.len = (size_t)(s + len - v.text);
	r = parse_value(&v, source, err, n);
	return r ?: apply(o, &v, source, floor, err, n);
}

int guard_opts_parse(struct guard_opts *o, const char *list, enum opts_source source, char *err, size_t n)
{
	struct guard_opts next = *o;

	while (*list) {
		size_t len = (size_t)(strchrnul(list, ',') - list);
		int r = len ? one(&next, list, len, source, false, err, n) : 0;

		if (r)
			return r;
		list += len + (list[len] == ',');
	}
	*o = next;
	return 0;
}

static int file_line(struct guard_opts *o, char *line, char *err, size_t n)
{
	bool floor;
	size_t len;

	line[strcspn(line, "#\n")] = 0;
	line += strspn(line, " \t");
	len = strlen(line);
	while (len && (line[len - 1] == ' ' || line[len - 1] == '\t'))
		line[--len] = 0;
	if (!len)
		return 0;
	floor = !strncmp(line, "floor ", 6);
	if (floor)
		line += 6 + strspn(line + 6, " \t");
	return one(o, line, strlen(line), OPTS_ADMIN, floor, err, n);
}

int guard_opts_file(struct guard_opts *o, const char *path, char *err, size_t n)
{
	struct guard_opts next = *o;
	char line[1024], why[768];
	unsigned int at = 0;
	FILE *f = fopen(path, "re");
	int r = 0;

	if (!f && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	if (!f) {
		snprintf(err, n, "%s: %s", path, strerror(errno));
		return -EINVAL;
	}
	while (!r && fgets(line, sizeof(line), f)) {
		at++;
		r = file_line(&next, line, why, sizeof(why));
	}
	fclose(f);
	if (r)
		snprintf(err, n, "%s:%u: %s", path, at, why);
	else
		*o = next;
	return r;
}

/* ---- telling ---------------------------------------------------------------------------------------------------- */

int guard_opts_get(const struct guard_opts *o, const char *key, char *buf, size_t n)
{
	for (unsigned int i = 0; i < OPT_IDS; i++) {
		const struct row *r = &rows[i];
		const u32 *num = number((struct guard_opts *)o, r);
		const char *name;
		size_t len;

		if (strcmp(r->key, key))
			continue;
		if (r->kind == KIND_TEXT)
			return snprintf(buf, n, "%s", text_of((struct guard_opts *)o, r));
		if (r->kind == KIND_NUM)
			return snprintf(buf, n, "%u", num[0]);
		name = choice_name(r->choices, num[0], &len);
		if (len > 2 && !strncmp(name + len - 2, ":N", 2))
			return snprintf(buf, n, "%.*s:%u", (int)len - 2, name, num[1]);
		return snprintf(buf, n, "%.*s", (int)len, name);
	}
	return -ENOENT;
}

int guard_opts_help(unsigned int row, char *buf, size_t n)
{
	const struct row *r = rows + row;
	const char *name;
	size_t len;

	if (row >= OPT_IDS)
		return 0;
	if (r->kind == KIND_TEXT)
		return snprintf(buf, n, "%s=%s: %s", r->key, r->choices, r->help);
	if (r->kind == KIND_NUM)
		return snprintf(buf, n, "%s=%u…%u (default %u): %s", r->key, r->min, r->max, r->def, r->help);
	name = choice_name(r->choices, r->def, &len);
	return snprintf(buf, n, "%s=%s (default %.*s): %s", r->key, r->choices, (int)len, name, r->help);
}
