/* SPDX-License-Identifier: MIT */
/*
 * VM-entry checks once more, straight from the manual's text and by field encoding, for comparison with the rows of
 * spec/vmcheck.def. [SDM3C "Checks on VMX Controls and Host-State Area", "Checking and Loading Guest State"]
 */
#pragma once
#include "image.h"

struct verdict {
	unsigned int kind;		/* 0 enters, 7, 8: VM-instruction error, 33: exit reason */
	unsigned int qualification;
};

static u64 fld(u32 encoding)
{
	bool high;

	return get(vmcs_lookup(encoding, &high));
}

static bool wide(u64 address)	/* beyond the physical-address width */
{
	return address >= 1ull << img_v->maxphyaddr;
}

static bool bad_page(u64 address, u64 align)
{
	return address % align || wide(address);
}

static bool noncanonical(u64 a)
{
	u64 top = a >> 47;

	return top != 0 && top != 0x1ffff;
}

static bool bad_setting(u64 value, u64 msr)
{
	for (int n = 0; n < 32; n++) {
		bool one = value >> n & 1;

		if (one && !(msr >> (32 + n) & 1))
			return true;
		if (!one && (msr >> n & 1))
			return true;
	}
	return false;
}

static bool bad_pat(u64 pat)
{
	for (int n = 0; n < 8; n++, pat >>= 8) {
		u8 type = pat & 0xff;

		if (type != 0 && type != 1 && type != 4 && type != 5 && type != 6 && type != 7)
			return true;
	}
	return false;
}

static bool bad_list(u64 address, u64 count)
{
	return count && (bad_page(address, 16) || wide(address + count * 16 - 1));
}

static bool bad_controls(void)
{
	u64 *msr = img_v->msr_val;
	u32 pin = (u32)fld(0x4000), proc = (u32)fld(0x4002), exit = (u32)fld(0x400c), entry = (u32)fld(0x4012);
	u32 two = proc >> 31 ? (u32)fld(0x401e) : 0, info = (u32)fld(0x4016);
	bool shadow = proc & 1u << 21, vid = two & 1 << 9;
	u8 vtpr;

	if (bad_setting(pin, msr[MSR_SLOT_VMX_TRUE_PINBASED_CTLS]) ||
	    bad_setting(proc, msr[MSR_SLOT_VMX_TRUE_PROCBASED_CTLS]) ||
	    (proc >> 31 && bad_setting(two, msr[MSR_SLOT_VMX_PROCBASED_CTLS2])))
		return true;
	if (fld(0x400a) > 4)
		return true;
	if (proc & 1 << 25 && (bad_page(fld(0x2000), 4096) || bad_page(fld(0x2002), 4096)))
		return true;
	if (proc & 1 << 28 && bad_page(fld(0x2004), 4096))
		return true;
	if (shadow) {
		if (bad_page(fld(0x2012), 4096))
			return true;
		if (!vid && fld(0x401c) > 15)
			return true;
		vtpr = fld(0x2012) + 0x80 < RAM_SIZE ? img_ram[fld(0x2012) + 0x80] >> 4 : 0;
		if (!vid && !(two & 1) && (fld(0x401c) & 15) > vtpr)
			return true;
	} else if (two & (1 << 4 | 1 << 8 | 1 << 9)) {
		return true;
	}
	if ((!(pin & 8) && (pin & 32)) || (!(pin & 32) && (proc & 1 << 22)))
		return true;
	if (two & 1 && (bad_page(fld(0x2014), 4096) || (two & 16)))
		return true;
	if (vid && !(pin & 1))
		return true;
	if (pin & 128 && (!vid || !(exit & 1 << 15) || fld(2) > 255 || bad_page(fld(0x2016), 64)))
		return true;
	if (two & 32 && !fld(0))
		return true;
	if (two & 2) {
		u64 eptp = fld(0x201a);
		bool type = (eptp & 7) == 0 || (eptp & 7) == 6;

		if (!type || (eptp >> 3 & 7) != 3 || (eptp & 0xf80) || wide(eptp))
			return true;
		if (eptp & 64 && !(msr[MSR_SLOT_VMX_EPT_VPID_CAP] >> 21 & 1))
			return true;
	} else if (two & (1 << 17 | 1 << 7 | 1 << 22)) {
		return true;
	}
	if (two & 1 << 17 && bad_page(fld(0x200e), 4096))
		return true;
	if (two & 1 << 13) {
		if (fld(0x2018) & ~msr[MSR_SLOT_VMX_VMFUNC])
			return true;
		if (fld(0x2018) & 1 && (!(two & 2) || bad_page(fld(0x2024), 4096)))
			return true;
	}
	if (two & 1 << 14 && (bad_page(fld(0x2026), 4096) || bad_page(fld(0x2028), 4096)))
		return true;
	if (two & 1 << 18 && bad_page(fld(0x202a), 4096))
		return true;
	if (two & 1 << 25 && !fld(0x2032))
		return true;
	if (bad_setting(exit, msr[MSR_SLOT_VMX_TRUE_EXIT_CTLS]) || (exit & 1 << 22 && !(pin & 64)))
		return true;
	if (bad_list(fld(0x2006), fld(0x400e)) || bad_list(fld(0x2008), fld(0x4010)))
		return true;
	if (bad_setting(entry, msr[MSR_SLOT_VMX_TRUE_ENTRY_CTLS]) || bad_list(fld(0x200a), fld(0x4014)))
		return true;
	if (info >> 31) {
		unsigned int type = info >> 8 & 7, vector = info & 255;
		bool code = info >> 11 & 1, pe = !(two & 128) || (fld(0x6800) & 1);
		bool wants = vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;

		if (type == 1 || (type == 2 && vector != 2) || (type == 3 && vector > 31) || (type == 7 && vector))
			return true;
		if (code != (type == 3 && wants && pe) || info & 0x7ffff000)
			return true;
		if (code && fld(0x4018) > 0xffff)
			return true;
		if (type >= 4 && type <= 6 && (fld(0x401a) > 15 ||
					       (!fld(0x401a) && !(msr[MSR_SLOT_VMX_MISC] >> 30 & 1))))
			return true;
	}
	return false;
}

static bool bad_host(void)
{
	u32 exit = (u32)fld(0x400c), entry = (u32)fld(0x4012);
	bool host64 = exit >> 9 & 1, ia32e = entry >> 9 & 1, now64 = img_v->efer & EFER_LMA;
	u64 cr0 = fld(0x6c00), cr4 = fld(0x6c04);

	if ((cr0 & 0x80000021) != 0x80000021 || cr0 >> 32 || !(cr4 & 1 << 13) || cr4 & img_v->cr4_rsvd)
		return true;
	if (wide(fld(0x6c02)) || noncanonical(fld(0x6c10)) || noncanonical(fld(0x6c12)))
		return true;
	if (exit & 1 << 19 && bad_pat(fld(0x2c00)))
		return true;
	if (exit & 1 << 21) {
		u64 efer = fld(0x2c02);

		if (efer & ~0xd01ull || !!(efer & 0x400) != host64 || !!(efer & 0x100) != host64)
			return true;
	}
	for (u32 enc = 0xc00; enc <= 0xc0c; enc += 2)
		if (fld(enc) & 7)
			return true;
	if (!fld(0xc02) || !fld(0xc0c) || (!host64 && !fld(0xc04)))
		return true;
	for (u32 enc = 0x6c06; enc <= 0x6c0e; enc += 2)
		if (noncanonical(fld(enc)))
			return true;
	if (!now64 && (ia32e || host64))
		return true;
	if (now64 && !host64)
		return true;
	if (!host64)
		return ia32e || (cr4 & 1 << 17) || fld(0x6c16) >> 32;
	return !(cr4 & 32) || noncanonical(fld(0x6c16));
}

enum { ES, CS, SS, DS, FS, GS, LDTR, TR };

static bool bad_granularity(u64 limit, u64 ar)
{
	bool g = ar >> 15 & 1;

	if (g && (limit & 0xfff) != 0xfff)
		return true;
	return !g && limit >= 1u << 20;
}

static bool bad_segment(int n, bool v86, bool urg, bool ia32e, u64 cr0)
{
	u64 sel = fld(0x800 + n * 2u), base = fld(0x6806 + n * 2u), limit = fld(0x4800 + n * 2u);
	u64 ar = fld(0x4814 + n * 2u), type = ar & 15, dpl = ar >> 5 & 3, rpl = sel & 3, ss_dpl = fld(0x4818) >> 5 & 3;
	u64 cs_type = fld(0x4816) & 15;
	bool unusable = ar >> 16 & 1;

	if (n == TR || n == LDTR) {
		if (n == LDTR && unusable)
			return false;
		if (sel & 4 || noncanonical(base))
			return true;
		if (n == TR && (unusable || (type != 11 && (type != 3 || ia32e))))
			return true;
		if (n == LDTR && type != 2)
			return true;
		return (ar & 16) || !(ar & 128) || (ar & 0xfffe0f00) || bad_granularity(limit, ar);
	}
	if ((n == FS || n == GS) && noncanonical(base))
		return true;
	if ((n == CS || (!unusable && n <= DS)) && base >> 32)
		return true;
	if (v86)
		return base != sel << 4 || limit != 0xffff || ar != 0xf3;
	if (n == SS && ((!urg && dpl != rpl) || ((cs_type == 3 || !(cr0 & 1)) && dpl)))
		return true;
	if (n != CS && unusable)
		return false;
	if (n == CS) {
		if (type == 3) {
			if (!urg || dpl)
				return true;
		} else if (type == 9 || type == 11) {
			if (dpl != ss_dpl)
				return true;
		} else if (type == 13 || type == 15) {
			if (dpl > ss_dpl)
				return true;
		} else {
			return true;
		}
		if (ia32e && (ar & 1 << 13) && (ar & 1 << 14))
			return true;
	} else if (n == SS) {
		if (type != 3 && type != 7)
			return true;
	} else {
		if (!(type & 1) || ((type & 8) && !(type & 2)))
			return true;
		if (!urg && type <= 11 && dpl < rpl)
			return true;
	}
	return !(ar & 16) || !(ar & 128) || (ar & 0xfffe0f00) || bad_granularity(limit, ar);
}

static struct verdict guest_verdict(void)
{
	const struct verdict bad = { 33, 0 };
	u32 proc = (u32)fld(0x4002), two = proc >> 31 ? (u32)fld(0x401e) : 0, entry = (u32)fld(0x4012);
	u32 info = (u32)fld(0x4016), pin = (u32)fld(0x4000);
	bool urg = two & 128, ia32e = entry >> 9 & 1, inject = info >> 31;
	u64 cr0 = fld(0x6800), cr4 = fld(0x6804), flags = fld(0x6820), block = fld(0x4824), act = fld(0x4826);
	u64 dbg = fld(0x6822), link = fld(0x2800), rip = fld(0x681e), ss_dpl = fld(0x4818) >> 5 & 3;
	bool v86 = flags >> 17 & 1, l = fld(0x4816) >> 13 & 1;
	unsigned int type = info >> 8 & 7, vector = info & 255;
	u64 must = urg ? 0x20 : 0x80000021;

	if ((cr0 & must) != must || cr0 >> 32 || ((cr0 >> 31 & 1) && !(cr0 & 1)))
		return bad;
	if (!(cr4 & 1 << 13) || cr4 & img_v->cr4_rsvd)
		return bad;
	if (entry & 4 && (fld(0x2802) & ~7ull || (fld(0x2802) & 4 && !cpu_has(img_v, FEAT_BUS_LOCK_DETECT)) ||
			  fld(0x681a) >> 32))
		return bad;
	if (ia32e ? !(cr0 >> 31 & 1) || !(cr4 & 32) : !!(cr4 & 1 << 17))
		return bad;
	if (wide(fld(0x6802)) || noncanonical(fld(0x6824)) || noncanonical(fld(0x6826)))
		return bad;
	if (entry & 1 << 14 && bad_pat(fld(0x2804)))
		return bad;
	if (entry & 1 << 15) {
		u64 efer = fld(0x2806);

		if (efer & ~0xd01ull || !!(efer & 0x400) != ia32e)
			return bad;
		if (cr0 >> 31 & 1 && !!(efer & 0x100) != ia32e)
			return bad;
	}
	for (int n = ES; n <= TR; n++)
		if (bad_segment(n, v86, urg, ia32e, cr0))
			return bad;
	if (!v86 && !urg && (fld(0x804) & 3) != (fld(0x802) & 3))
		return bad;
	if (noncanonical(fld(0x6816)) || noncanonical(fld(0x6818)) || fld(0x4810) > 0xffff || fld(0x4812) > 0xffff)
		return bad;
	if (ia32e && l ? noncanonical(rip) : rip >> 32 != 0)
		return bad;
	if (flags >> 22 || flags & (1 << 15 | 1 << 5 | 1 << 3) || !(flags & 2))
		return bad;
	if (v86 && (ia32e || !(cr0 & 1)))
		return bad;
	if (inject && type == 0 && !(flags & 0x200))
		return bad;
	if (act > 3 || (act && !(img_v->msr_val[MSR_SLOT_VMX_MISC] >> (5 + act) & 1)) || (act == 1 && ss_dpl) ||
	    (act && (block & 3)))
		return bad;
	if (inject && (act == 3 || (act == 2 && type != 2 && !(type == 3 && vector == 18))))
		return bad;
	if (inject && act == 1 && type != 0 && type != 2 && type != 7 &&
	    !(type == 3 && (vector == 1 || vector == 18)))
		return bad;
	if (block & ~15ull || (block & 3) == 3 || (block & 1 && !(flags & 0x200)) || block & 4)
		return bad;
	if (inject && ((type == 0 && block & 3) || (type == 2 && block & 2) || (type == 2 && pin & 32 && block & 8)))
		return bad;
	if (dbg & ~0x500full)
		return bad;
	if (block & 3 || act == 1) {
		bool stepping = flags & 0x100 && !(fld(0x2802) & 2);

		if (stepping != !!(dbg & 1 << 14))
			return bad;
	}
	if (link != ~0ull) {
		u32 rev = 0;

		if (!bad_page(link, 4096) && link < RAM_SIZE)
			memcpy(&rev, img_ram + link, 4);
		if (bad_page(link, 4096) || (rev & 0x7fffffff) != 0x11e57ed0 || rev >> 31 != (two >> 14 & 1))
			return (struct verdict){ 33, 4 };
	}
	if (cr0 >> 31 & 1 && cr4 & 32 && !ia32e) {
		for (u32 n = 0; n < 4; n++) {
			u64 e = fld(0x280a + 2 * n), at = (fld(0x6802) & 0xffffffe0) + n * 8;

			if (!(two & 2)) {
				if (at >= RAM_SIZE)
					return (struct verdict){ 33, 2 };
				memcpy(&e, img_ram + at, 8);
			}
			if (e & 1 && (e & 0x1e6 || wide(e)))
				return (struct verdict){ 33, 2 };
		}
	}
	return (struct verdict){ 0, 0 };
}

static struct verdict manual_verdict(void)
{
	if (bad_controls())
		return (struct verdict){ 7, 0 };
	if (bad_host())
		return (struct verdict){ 8, 0 };
	return guest_verdict();
}
