/* SPDX-License-Identifier: MIT */
/* In the guest of test/boot/sld: a split lock in user mode, and what came of it. */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static void on_bus(int sig, siginfo_t *info, void *ctx)
{
	static const char text[] = "split lock: SIGBUS\n";

	if (write(1, text, sizeof(text) - 1) < 0)
		_exit(2);
	_exit(info->si_code == BUS_ADRALN ? 0 : 1);
}

int main(void)
{
	static char buf[128] __attribute__((aligned(64)));
	struct sigaction sa = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };
	int *p = (int *)(void *)(buf + 62), val;

	sigaction(SIGBUS, &sa, NULL);
	for (int i = 0; i < 2; i++)
		__asm__ volatile("lock incl %0" : "+m"(*p));
	__builtin_memcpy(&val, p, sizeof(val));
	printf("split lock: retired %d\n", val);
	return 0;
}
