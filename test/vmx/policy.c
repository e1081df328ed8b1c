/* SPDX-License-Identifier: MIT */
/*
 * `casement run` with a small hypervisor as its guest, which sets no protection, whose L2 is CVE-2015-5307: #AC in the
 * delivery of #AC. L0 gets control back within its window; notify-invalid=shutdown-l2 ends L2, L1 runs on and the
 * log says what happened to whom.
 */
#include "tap.h"

#include "vmm/lab/board.h"

/* Pairs of VMCS field and value, in L1's memory. */
#define F(field, value) ".quad " #field ", " value "\n"
#define AT(sym) "0x100000 + " #sym " - p_start"
#define USER_DATA(n) F(0x800 + 2 * n, "0x33") F(0x4800 + 2 * n, "0xffffffff") F(0x4814 + 2 * n, "0xc0f3")

BOARD_ASM(image_code, 64,
	"p_start: lea p_stack(%rip), %rsp\n"
	"lgdt p_gdtr(%rip); mov $0x18, %ax; ltr %ax\n"
	"mov %cr4, %rax; or $0x2000, %eax; mov %rax, %cr4; mov %cr0, %rax; or $0x20, %eax; mov %rax, %cr0\n"
	"mov $0x3a, %ecx; rdmsr; test $1, %al; jnz 1f; mov $5, %eax; xor %edx, %edx; wrmsr\n"
	"1: mov $0x480, %ecx; rdmsr; mov %eax, 0x200000; mov %eax, 0x201000\n"
	"vmxon p_on(%rip); vmclear p_vmcs(%rip); vmptrld p_vmcs(%rip)\n"
	"lea p_fields(%rip), %rsi\n"
	"2: mov (%rsi), %rax; cmp $-1, %rax; je 3f; mov 8(%rsi), %rbx; vmwrite %rbx, %rax; jbe 9f; add $16, %rsi\n"
	"jmp 2b\n"
	"3: mov $0x6c00, %eax; mov %cr0, %rbx; vmwrite %rbx, %rax\n"
	"mov $0x6c02, %eax; mov %cr3, %rbx; vmwrite %rbx, %rax; mov $0x6c04, %eax; mov %cr4, %rbx; vmwrite %rbx, %rax\n"
	"lea p_says(%rip), %rsi; call p_say; vmlaunch\n"
	"9: lea p_failed(%rip), %rsi; call p_say; 8: hlt; jmp 8b\n"
	/* the exit handler */
	"p_exit: mov $0x4402, %eax; vmread %rax, %rbx; add $'0', %bl; mov %bl, p_reason(%rip)\n"
	"lea p_exited(%rip), %rsi; call p_say\n"
	"mov $1000000, %ecx; 1: dec %ecx; jnz 1b\n"
	"lea p_lives(%rip), %rsi; call p_say; lidt p_none(%rip); ud2\n"
	"p_none: .quad 0, 0\n"
	"p_say: mov $0x3f8, %edx; 1: lodsb; test %al, %al; jz 2f; out %al, %dx; jmp 1b; 2: ret\n"
	"p_says: .asciz \"L1 launches\\n\"\n"
	"p_failed: .asciz \"L1 cannot\\n\"\n"
	"p_exited: .ascii \"L1 has exit \"\n p_reason: .asciz \"?\\n\"\n"
	"p_lives: .asciz \"L1 lives\\n\"\n"
	/* L2: ring 3, 32 bits, AC and AM set, a misaligned stack, #AC's handler in ring 3 */
	".code32\np_l2: mov 0x200002, %eax; 1: jmp 1b\np_handler: jmp p_handler\n.code64\n"
	".balign 16\n"
	"p_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff\n"
	".word 0x67, p_tss - p_start\n .byte 0x10, 0x89, 0, 0\n .quad 0\n"
	".quad 0x00cffb000000ffff, 0x00cff3000000ffff\n"
	"p_gdtr: .word p_gdtr - p_gdt - 1\n .quad " AT(p_gdt) "\n"
	".balign 8\n p_on: .quad 0x200000\n p_vmcs: .quad 0x201000\n"
	"p_tss: .skip 0x68\n"
	"p_idt: .skip 17 * 8\n .word p_handler - p_start, 0x2b\n .byte 0, 0xee\n .word 0x10\n"
	".balign 8\n p_fields:\n"
	F(0x4000, "0x16") F(0x4002, "0x0401e172") F(0x400c, "0x36fff") F(0x4012, "0x11ff")
	F(0x2800, "-1") F(0x6802, AT(p_pd)) F(0x6800, "0x80040031") F(0x6804, "0x2010") F(0x681a, "0x400")
	F(0x681c, AT(p_stack) " - 0x81") F(0x681e, AT(p_l2)) F(0x6820, "0x40002")
	F(0x802, "0x2b") F(0x4802, "0xffffffff") F(0x4816, "0xc0fb")
	USER_DATA(0) USER_DATA(2) USER_DATA(3) USER_DATA(4) USER_DATA(5)
	F(0x4820, "0x10000") F(0x80e, "0x18") F(0x480e, "0x67") F(0x4822, "0x8b") F(0x6814, AT(p_tss))
	F(0x6816, AT(p_gdt)) F(0x4810, "p_gdtr - p_gdt - 1") F(0x6818, AT(p_idt)) F(0x4812, "18 * 8 - 1")
	F(0xc00, "0x10") F(0xc02, "8") F(0xc04, "0x10") F(0xc06, "0x10") F(0xc08, "0x10") F(0xc0a, "0x10")
	F(0xc0c, "0x18") F(0x6c0a, AT(p_tss)) F(0x6c0c, AT(p_gdt)) F(0x6c0e, "0")
	F(0x6c14, AT(p_stack)) F(0x6c16, AT(p_exit))
	".quad -1\n"
	".balign 4096\n p_pd: .long 0x87, 0x400087, 0x800087, 0xc00087\n .skip 4080\n"
	".skip 1024\n p_stack: .quad 0\n");

static char casement[300], image[] = "/tmp/casement-nested-XXXXXX", errors[64];
static char text[4096], said[65536];

static void make_image(void)
{
	int fd = mkstemp(image);

	write(fd, image_code, (size_t)(image_code_end - image_code));
	close(fd);
	snprintf(errors, sizeof(errors), "%s.log", image);
	snprintf(casement, sizeof(casement), "%s/casement", getenv("CASEMENT_BUILD") ?: "build");
}

static void slurp(FILE *f, char *buf, size_t size)
{
	buf[fread(buf, 1, size - 1, f)] = 0;
}

/* What L1 printed is in text, what the monitor did in said. */
static int run(const char *accel, int seconds)
{
	char cmd[1024];
	FILE *f;
	int status;

	snprintf(cmd, sizeof(cmd),
		 "timeout 300 %s run -k %s --format flat64 --timeout %d -m 16M --accel '%s' 2>%s </dev/null", casement,
		 image, seconds, accel, errors);
	f = popen(cmd, "r");
	slurp(f, text, sizeof(text));
	status = pclose(f);
	f = fopen(errors, "r");
	slurp(f, said, sizeof(said));
	fclose(f);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int main(void)
{
	const char *lives;

	make_image();
	is(run("casement,intercepts=drop,notify-vmexit=run", 3), 4, "L2 loops in #AC until the time is over");
	ok(strstr(text, "L1 launches") && !strstr(text, "L1 has"), "L1 never gets it back");
	ok(strstr(said, "context valid, L2"), "and L0 has control within its window, each time");
	is(run("casement,intercepts=drop,inject=context-invalid:flag,notify-invalid=shutdown-l2", 200),
	   3, "shutdown-l2: a context that is invalid; L1 then ends itself");
	ok(strstr(text, "L1 has exit 2"), "L1 sees exit reason 2");
	lives = strstr(text, "L1 lives");
	ok(lives, "and keeps running");
	ok(strstr(said, "context invalid, L2") && strstr(said, "L2 is shut down"), "L0's log names L2");
	ok(strstr(said, "triple-fault-l2") && strstr(said, "VMCS 0x201000") && strstr(said, "RIP 0x1001"),
	   "and its VMCS and RIP");
	if (!lives)
		diag("%s%s", text, said);
	unlink(image);
	unlink(errors);
	return done_testing();
}
