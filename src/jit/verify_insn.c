/* SPDX-License-Identifier: MIT */
/*
 * What a host instruction of a block does to what the verifier knows, and whether it may.
 */
#include "jit/verify.h"

#include "cpu/op/op.h"

#define HOST_RSP BIT(GPR_RSP)

/* Fields of struct vcpu that blocks may write, or only an instruction with that handler. */
static const struct {
	size_t off, len;
	op_fn op;
} stores[] = {
	{ offsetof(struct vcpu, aflags), 2, NULL },
	{ offsetof(struct vcpu, jit_tmp), sizeof(((struct vcpu *)0)->jit_tmp), NULL },
	{ offsetof(struct vcpu, jit_host), sizeof(((struct vcpu *)0)->jit_host), NULL },
	{ OFF_GPR(GPR_R11), 8, NULL },
	{ OFF_GPR(GPR_R14), 8, NULL },
	{ OFF_GPR(GPR_R15), 8, NULL },
	{ offsetof(struct vcpu, rflags), 8, op_cli },
	{ offsetof(struct vcpu, msr_val[MSR_SLOT_KERNEL_GS_BASE]), 8, op_swapgs },
	{ offsetof(struct vcpu, gs_base_copy), 8, op_swapgs },
	{ offsetof(struct vcpu, seg[SEG_GS].base), 8, op_swapgs },
};

static struct val *reg(struct vstate *s, unsigned int r)
{
	return &s->reg[r & 15];
}

static void junk(struct vstate *s, unsigned int r)
{
	*reg(s, r) = (struct val){ .kind = VAL_JUNK };
	if (s->cmp == r)
		s->cmp = REF_NONE;
	if (r == R_T || r == R_I)
		s->jump = s->cmp_jump = 0;
	/* An offset from a tag is one as long as the index that found it stands. */
	if (r == R_I && (reg(s, R_T)->kind == VAL_OFFSET || reg(s, R_T)->kind == VAL_BOUNDED))
		reg(s, R_T)->kind = VAL_JUNK;
	if (r == R_T && (reg(s, R_I)->kind == VAL_SAME || reg(s, R_I)->kind == VAL_OFFSET ||
			 reg(s, R_I)->kind == VAL_BOUNDED))
		reg(s, R_I)->kind = VAL_JUNK;
	if (r == R_I && reg(s, R_T)->kind == VAL_PART)
		reg(s, R_T)->kind = VAL_JUNK;
	if (r == R_T && reg(s, R_I)->kind == VAL_REST)
		reg(s, R_I)->kind = VAL_JUNK;
}

static void pair(struct vstate *s, bool write, unsigned int size)
{
	junk(s, R_I);
	*reg(s, R_I) = (struct val){ .kind = VAL_REST };
	*reg(s, R_T) = (struct val){ .kind = VAL_PART, .arg = write, .size = (u16)size };
}

static bool is_copy(const struct verify *y, u32 at, const struct vstate *s)
{
	return y->w->copied[s->k] == at;
}

/* Guest registers that instruction k writes, as host registers; those in memory as @memory. */
static u16 may_write(const struct verify *y, const struct vstate *s, u16 *memory)
{
	u16 guest = y->w->d[s->k].gpr_write, host = 0;
	const struct insn *r = &y->w->t->rec[s->k];

	if (insn_rows[r->id].traits & T_STACK)
		guest |= BIT(GPR_RSP);
	if (r->op == op_leave)
		guest |= BIT(GPR_RBP);
	*memory = 0;
	for (unsigned int g = 0; g < 16; g++) {
		if (!(guest >> g & 1))
			continue;
		if (jit_host[g] == IN_MEMORY)
			*memory |= (u16)BIT(g);
		else
			host |= (u16)BIT(jit_host[g]);
	}
	return host;
}

/* ---- memory --------------------------------------------------------------------------------------------- */

static bool store_fits(struct verify *y, u32 at, const struct vstate *s, u64 off, unsigned int size)
{
	u16 memory;

	(void)may_write(y, s, &memory);
	for (unsigned int k = 0; k < ARRAY_SIZE(stores); k++) {
		if (off < stores[k].off || off + size > stores[k].off + stores[k].len)
			continue;
		if (stores[k].op && stores[k].op != y->w->t->rec[s->k].op)
			continue;
		for (unsigned int g = 0; g < 16; g++)
			if (off >= (u64)OFF_GPR(g) && off < (u64)OFF_GPR(g) + 8 && !(memory >> g & 1))
				return verify_fail(y, at, "stores a register that the instruction does not write");
		return true;
	}
	return verify_fail(y, at, "stores to a field of the vCPU that blocks have no business with");
}

/* [gs:disp] and [gs:disp + I] */
static void check_field(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	const struct insn *r = &d->rec;
	u64 off = (u64)(s64)r->disp, most = sizeof(struct vcpu) - d->mem_size;

	if (jump_ref(d, offsetof(struct jentry, lin)) || jump_ref(d, offsetof(struct jentry, mode_key))) {
		bool masked = reg(s, R_I)->kind == VAL_MASKED && reg(s, R_I)->num == JCACHE_MASK;

		if (d->mem_acc & MEM_W || !masked)
			verify_fail(y, at, "writes the jump cache, or reads it by an index that is not masked");
	} else if (r->index != GPR_NONE || (r->base != GPR_NONE && r->base != R_I)) {
		verify_fail(y, at, "addresses the vCPU by another register than the index");
	} else if (r->base == R_I) {
		if (reg(s, R_I)->kind != VAL_MASKED)
			verify_fail(y, at, "addresses the vCPU by an index that is not masked");
		else if (off + reg(s, R_I)->num > most || d->mem_acc & MEM_W)
			verify_fail(y, at, "leaves the vCPU, or writes it, by an index");
	} else if (off > most) {
		verify_fail(y, at, "addresses beyond the vCPU");
	} else if (d->mem_acc & MEM_W && off == offsetof(struct vcpu, page_rip)) {
		verify_page(y, at, d, s);
	} else if (d->mem_acc & MEM_W) {
		store_fits(y, at, s, off, d->mem_size);
	}
}

static bool faults_here(struct verify *y, u32 at, const struct vstate *s)
{
	u32 lo = y->w->site0, best = NO_SITE;

	for (u32 k = lo; k < y->j->nsites; k++)
		if (y->j->site[k].host <= y->base + at)
			best = k;
	if (best == NO_SITE)
		return verify_fail(y, at, "can fault, and there is no site for it");
	return verify_site_at(y, at, s, best) && verify_home(y, at, s, true);
}

static void check_operand(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	const struct val *t = reg(s, R_T);
	const struct insn *r = &d->rec;
	bool sum = r->index == R_I && !insn_scale(r);

	if (r->base != R_T || (r->index != GPR_NONE && !sum) || insn_asz(r) != 8 || insn_seg(r) >= SEG_FS) {
		verify_fail(y, at, "accesses memory by an address that no probe has made");
		return;
	}
	if (sum ? t->kind != VAL_PART || reg(s, R_I)->kind != VAL_REST : t->kind != VAL_PTR) {
		verify_fail(y, at, "accesses memory that has not been checked");
		return;
	}
	if (r->disp < 0 || (u64)r->disp + d->mem_size > t->size)
		verify_fail(y, at, "accesses more than has been checked");
	if (d->mem_acc & MEM_W && !t->arg)
		verify_fail(y, at, "writes what was checked for reading");
	if (native_is_locked(d) && (!(s->locks & LOCK_TYPE) ||
				    (d->mem_size > 1 && !(s->locks & LOCK_LINE))))
		verify_fail(y, at, "locks what may lie on two lines, or not be write-back memory");
	faults_here(y, at, s);
}

static void check_memory(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	if (!(d->rec.flags & INSN_MEM) || d->mem_acc == MEM_ADDR || insn_rows[d->rec.id].traits & (T_LEA | T_NOP))
		return;
	if (!d->mem_size || d->vsib)
		verify_fail(y, at, "a memory operand of no certain size");
	else if (insn_seg(&d->rec) == SEG_GS)
		check_field(y, at, d, s);
	else
		check_operand(y, at, d, s);
}

/* ---- registers --------------------------------------------------------------------------------------------- */

static bool is_mov(const struct decode *d)
{
	return d->rec.id == INSN_MOV && !(d->rec.flags & INSN_MEM) && d->rec.osz == 8 && !d->imm_len;
}

static bool from_field(const struct decode *d, size_t off)
{
	return d->rec.flags & INSN_MEM && insn_seg(&d->rec) == SEG_GS && d->rec.base == GPR_NONE &&
	       d->rec.disp == (s32)off;
}

/* The guest register that is read from memory; 16 none */
static unsigned int from_guest(const struct decode *d)
{
	for (unsigned int g = 0; g < 16; g++)
		if (jit_host[g] == IN_MEMORY && from_field(d, (size_t)OFF_GPR(g)))
			return g;
	return 16;
}

/* Moving a register, its own way back, or a new value to where it belongs. 8b: reg = rm, 89: rm = reg */
static bool step_mov(const struct verify *y, const struct decode *d, struct vstate *s)
{
	unsigned int to = d->opcode == 0x8b ? insn_reg(&d->rec) : insn_rm(&d->rec);
	unsigned int from = d->opcode == 0x8b ? insn_rm(&d->rec) : insn_reg(&d->rec);
	struct val val = *reg(s, from);
	u16 memory;

	if (val.kind == VAL_HOME)
		val = (struct val){ .kind = VAL_COPY, .arg = (u8)from };
	if (val.kind == VAL_COPY && val.arg == to)
		val = (struct val){ .kind = VAL_HOME };
	if (val.kind != VAL_HOME && may_write(y, s, &memory) >> to & 1)
		val = (struct val){ .kind = VAL_NEW };
	junk(s, to);
	*reg(s, to) = val;
	if (to == R_I && from == R_T)
		*reg(s, R_I) = (struct val){ .kind = VAL_SAME };
	return true;
}

/* The distance of slot 0 from a field of struct vcpu; whose view's it is, nobody else's may be used. */
static bool slot_of(const struct verify *y, u32 off, bool *write)
{
	unsigned int view = work_view(y->w);
	u32 n = (off - (u32)offsetof(struct vcpu, slots)) / (u32)sizeof(struct tlb_slot);

	*write = n / TLB_SLOTS & 1;
	return off >= offsetof(struct vcpu, slots) && n / TLB_SLOTS / 2 == view && view < VIEW_NONE &&
	       (off - (u32)offsetof(struct vcpu, slots)) % sizeof(struct tlb_slot) == 0;
}

/* Bytes that may be accessed where a distance in I is not above the field that it is compared with; 0 none */
static unsigned int slot_bound(const struct verify *y, const struct decode *d, struct vstate *s)
{
	const struct val *i = reg(s, R_I);
	u32 off = (u32)d->rec.disp - i->num - (u32)offsetof(struct tlb_slot, most);
	bool write;

	if (d->rec.id != INSN_CMP || d->opcode != 0x3b || d->rec.osz != 8 || insn_reg(&d->rec) != R_I ||
	    !from_field(d, (size_t)d->rec.disp) || i->kind != VAL_OFFSET || !slot_of(y, i->num, &write) ||
	    off & 7 || off / 8 >= SLOT_CLASSES)
		return 0;
	return slot_class_size(off / 8);
}

/* The steps of a probe of a slot, where the check is beside the address. */
static bool step_slot(struct verify *y, const struct decode *d, struct vstate *s)
{
	const struct insn *r = &d->rec;
	struct val i = *reg(s, R_I);
	bool write;

	if (!(r->flags & INSN_MEM) || !from_field(d, (size_t)r->disp) || r->osz != 8)
		return false;
	if (r->id == INSN_SUB && insn_reg(r) == R_I && d->mem_acc == MEM_R) {
		junk(s, R_I);
		if (i.kind == VAL_SAME && slot_of(y, (u32)r->disp, &write))
			*reg(s, R_I) = (struct val){ .kind = VAL_OFFSET, .num = (u32)r->disp };
		return true;
	}
	if (r->id == INSN_MOV && insn_reg(r) == R_I && i.kind == VAL_BOUNDED && slot_of(y, i.num, &write) &&
	    (u32)r->disp == i.num + offsetof(struct tlb_slot, delta)) {
		pair(s, write, i.size);
		return true;
	}
	if (r->id == INSN_ADD && insn_reg(r) == R_T && d->mem_acc == MEM_R) {
		junk(s, R_T);
		if (i.kind == VAL_BOUNDED && slot_of(y, i.num, &write) &&
		    (u32)r->disp == i.num + offsetof(struct tlb_slot, delta))
			*reg(s, R_T) = (struct val){ .kind = VAL_PTR, .arg = write, .size = i.size };
		return true;
	}
	return false;
}

static u32 probe_array(const struct verify *y, bool write, size_t field)
{
	u32 key = y->w->t->key;
	unsigned int view = work_view(y->w);
	unsigned int level = key & MODE_NONROOT ? 1 : 0;

	return (u32)(offsetof(struct vcpu, l1_sets) + (level * VIEW_NUM + view) * sizeof(struct tlb_l1) +
		     (write ? offsetof(struct tlb_l1, w) : offsetof(struct tlb_l1, r)) + field);
}

/* The steps of a probe. False: d is none of them. */
static bool step_probe(struct verify *y, const struct decode *d, struct vstate *s)
{
	const struct insn *r = &d->rec;
	struct val *t = reg(s, R_T), *i = reg(s, R_I);
	u64 imm = (u64)r->imm;

	if (r->id == INSN_AND && !(r->flags & INSN_MEM) && d->imm_len && insn_rm(r) == R_I && r->osz == 4 &&
	    imm < 1u << 20) {
		junk(s, R_I);
		*i = (struct val){ .kind = VAL_MASKED, .num = (u32)imm };
		return true;
	}
	if (r->id == INSN_SUB && r->flags & INSN_MEM && insn_reg(r) == R_T && r->base == R_I && r->osz == 8) {
		junk(s, R_T);
		if (i->kind == VAL_MASKED && (i->num & 15) == 0)
			*t = (struct val){ .kind = VAL_OFFSET, .num = (u32)r->disp };
		return true;
	}
	if ((r->id == INSN_ADD && r->flags & INSN_MEM && insn_reg(r) == R_T && r->base == R_I && r->osz == 8) ||
	    (r->id == INSN_MOV && d->mem_acc == MEM_R && insn_reg(r) == R_I && r->base == R_I && r->osz == 8 &&
	     insn_seg(r) == SEG_GS)) {
		bool write = t->num == probe_array(y, true, offsetof(struct tlb_entry, tag));
		struct val was = *t;
		bool good = was.kind == VAL_BOUNDED &&
			    was.num == probe_array(y, write, offsetof(struct tlb_entry, tag)) &&
			    (u32)r->disp == probe_array(y, write, offsetof(struct tlb_entry, host));

		junk(s, r->id == INSN_MOV ? R_I : R_T);
		if (good && r->id == INSN_MOV)
			pair(s, write, was.size);
		else if (good)
			*t = (struct val){ .kind = VAL_PTR, .arg = write, .size = was.size };
		return true;
	}
	return false;
}

/* The steps of saving and restoring flags in RAX. */
static bool step_flags(struct vstate *s, const struct decode *d)
{
	const struct insn *r = &d->rec;
	struct val *a = reg(s, GPR_RAX);

	if (r->id == INSN_LAHF) {
		*a = (struct val){ .kind = VAL_LAHF, .arg = s->host };
		return true;
	}
	if (r->id == INSN_SETO && !(r->flags & INSN_MEM) && insn_rm(r) == GPR_RAX && a->kind == VAL_LAHF) {
		a->kind = VAL_FLAGS;
		return true;
	}
	if (r->id == INSN_MOVZX && insn_reg(r) == GPR_RAX && from_field(d, offsetof(struct vcpu, aflags))) {
		*a = (struct val){ .kind = VAL_AFLAGS, .arg = s->saved };
		return true;
	}
	if (r->id == INSN_ADD && d->opcode == 0x04 && a->kind == VAL_AFLAGS && r->imm == 0x7f) {
		a->kind = VAL_OVERFLOWED;
		s->host = false;
		return true;
	}
	if (r->id == INSN_SAHF) {
		s->host = a->kind == VAL_OVERFLOWED && a->arg;
		return true;
	}
	return false;
}

static void write_registers(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	bool mine = is_copy(y, at, s) || !d->flags_write;
	u16 memory, ok = may_write(y, s, &memory);

	for (unsigned int r = 0; r < 16; r++) {
		if (!(d->gpr_write >> r & 1))
			continue;
		junk(s, r);
		if (mine && ok >> r & 1)
			*reg(s, r) = (struct val){ .kind = VAL_NEW };
	}
}

/* vcpu.jit_host[] keeps what a check found. */
static void step_held(const struct decode *d, struct vstate *s)
{
	u64 off = (u64)(s64)d->rec.disp - offsetof(struct vcpu, jit_host);

	if (!(d->rec.flags & INSN_MEM) || !from_field(d, (size_t)d->rec.disp) || off >= 8 * GROUPS)
		return;
	if (d->mem_acc & MEM_W)
		s->held[off / 8] = d->rec.id == INSN_MOV && insn_reg(&d->rec) == R_T && !(off & 7) && d->mem_size == 8 ?
				   *reg(s, R_T) : (struct val){ .kind = VAL_JUNK };
	else if (d->rec.id == INSN_MOV && insn_reg(&d->rec) == R_T && !(off & 7) && d->mem_size == 8)
		*reg(s, R_T) = s->held[off / 8];
}

static void step_aflags(const struct decode *d, struct vstate *s)
{
	const struct insn *r = &d->rec;
	bool low = from_field(d, offsetof(struct vcpu, aflags));
	bool high = from_field(d, offsetof(struct vcpu, aflags) + 1);
	const struct val *a = reg(s, GPR_RAX);

	if (!(d->mem_acc & MEM_W) || (!low && !high))
		return;
	s->saved = s->lazy = low && r->id == INSN_MOV && !d->imm_len && d->mem_size == 2 && insn_reg(r) == GPR_RAX &&
			     a->kind == VAL_FLAGS && a->arg;
	s->marked = high && r->id == INSN_MOV && d->imm_len && d->mem_size == 1 && r->imm == AFLAGS_LOOP >> 8;
}

static void step_other(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	const struct insn *r = &d->rec;

	write_registers(y, at, d, s);
	step_held(d, s);
	if (r->id == INSN_MOV && d->imm_len && r->osz == 4 && insn_rm(r) == R_I && !(r->flags & INSN_MEM))
		*reg(s, R_I) = (struct val){ .kind = VAL_SITE, .num = (u32)r->imm };
	else if (r->id == INSN_MOV && d->mem_acc == MEM_R && r->osz == 8 && from_guest(d) < 16)
		*reg(s, insn_reg(r)) = (struct val){ .kind = VAL_GUEST, .arg = (u8)from_guest(d) };
	else if (r->id == INSN_MOV && d->gpr_write == BIT(GPR_RCX) && from_field(d, offsetof(struct vcpu, request)))
		*reg(s, GPR_RCX) = (struct val){ .kind = VAL_REQUEST };
	step_aflags(d, s);
}

/* ---- flags -------------------------------------------------------------------------------------------------- */

static void note_compare(const struct verify *y, const struct decode *d, struct vstate *s)
{
	const struct insn *r = &d->rec;
	unsigned int bound = slot_bound(y, d, s);

	s->cmp = REF_NONE;
	s->cmp_type = s->cmp_line = s->cmp_fp = false;
	s->cmp_poll = r->id == INSN_CMP && d->imm_len && !r->imm && d->mem_size == 4 &&
		      from_field(d, offsetof(struct vcpu, request));
	jump_compare(d, s);
	if (r->id == INSN_CMP && d->imm_len && !(r->flags & INSN_MEM) && r->osz == 8) {
		s->cmp = (u8)insn_rm(r);
		s->cmp_imm = (u32)r->imm;
	} else if (bound) {
		s->cmp = R_I;
		s->cmp_imm = PAGE_SIZE - bound;
	}
	s->cmp_type = r->id == INSN_CMP && d->imm_len && !r->imm && from_field(d, offsetof(struct vcpu, tlb_uc));
	s->cmp_line = r->id == INSN_AND && d->imm_len && r->imm == -64 && !(r->flags & INSN_MEM) && insn_rm(r) == R_I;
	s->cmp_fp = r->id == INSN_TEST && d->imm_len && from_field(d, offsetof(struct vcpu, fp_live));
	if (s->cmp_fp)
		s->cmp_imm = (u32)r->imm;
}

static void step_host_flags(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	if (!is_copy(y, at, s)) {
		if (d->flags_write && d->rec.id != INSN_SAHF)
			s->host = false;
	} else {
		if (d->flags_read && !s->host)
			verify_fail(y, at, "reads flags that are not in the host's");
		if (d->flags_write) {
			s->host |= !flags_needed(d);
			s->saved = s->lazy = s->marked = false;
		}
	}
	if (d->flags_write || d->rec.id == INSN_SAHF)
		note_compare(y, d, s);
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static bool allowed(const struct decode *d)
{
	const struct insn_row *row = &insn_rows[d->rec.id];

	if (d->rec.id == INSN_INVALID)
		return false;
	if (row->traits & (T_CPL0 | T_IO | T_UMIP | T_STRING | T_STACK | T_RANDOM | T_BRANCH))
		return false;
	return !d->rec.op || d->rec.id == INSN_LAHF || d->rec.id == INSN_SAHF;
}

/* Is the host register the right one in the place of the guest's? */
static bool stands_for(struct vstate *s, const struct decode *guest, unsigned int host, unsigned int g)
{
	const struct val *val = reg(s, host);
	u16 bit = (u16)BIT(g);

	if (jit_host[g] != IN_MEMORY)
		return host == jit_host[g];
	if (host != R_T && host != R_I)
		return false;
	return (val->kind == VAL_GUEST && val->arg == g) ||
	       (guest->gpr_full & bit && !(guest->gpr_read & bit));
}

static void check_registers(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	const struct decode *guest = &y->w->d[s->k];
	const struct insn *r = &d->rec, *was = &guest->rec;
	u8 fields = guest->gpr_fields;
	bool good = d->gpr_fields == fields;

	if (fields & FIELD_REG)
		good &= stands_for(s, guest, insn_reg(r), insn_reg(was));
	if (fields & (FIELD_RM | FIELD_OPCODE))
		good &= stands_for(s, guest, insn_rm(r), insn_rm(was));
	if (fields & FIELD_VVVV)
		good &= stands_for(s, guest, d->vvvv, guest->vvvv);
	if (!good)
		verify_fail(y, at, "names other registers than the guest's instruction");
}

/* The guest's own instruction, with nothing but its operands changed. */
static void check_copy(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	const struct decode *guest = &y->w->d[s->k];

	if (d->rec.id != guest->rec.id || d->flags_write != guest->flags_write || d->flags_read != guest->flags_read ||
	    d->mem_acc != guest->mem_acc || (guest->rec.flags & INSN_MEM && d->mem_size != guest->mem_size))
		verify_fail(y, at, "is not the guest's instruction");
	check_registers(y, at, d, s);
	if (d->vector && !(s->fp & native_live_bit(guest)))
		verify_fail(y, at, "uses vector state that may not be live");
	if (d->vector || d->rec.id == INSN_DIV || d->rec.id == INSN_IDIV)
		faults_here(y, at, s);
}

void verify_insn(struct verify *y, u32 at, const struct decode *d, struct vstate *s)
{
	bool copy = is_copy(y, at, s);

	if (!allowed(d)) {
		verify_fail(y, at, "is no instruction for a block");
		return;
	}
	if ((d->gpr_read | d->gpr_write) & HOST_RSP || d->rec.base == GPR_RSP || d->rec.base == GPR_RIP)
		verify_fail(y, at, "touches the host's stack or code");
	if (copy)
		check_copy(y, at, d, s);
	else if (d->rec.id == INSN_FWAIT)
		faults_here(y, at, s);
	else if (d->vector)
		verify_fail(y, at, "touches vector state without the guest's asking");
	check_memory(y, at, d, s);
	step_host_flags(y, at, d, s);
	if (copy || !(is_mov(d) ? step_mov(y, d, s) : step_probe(y, d, s) || step_slot(y, d, s) || step_flags(s, d) ||
		      step_jump(d, s)))
		step_other(y, at, d, s);
}
