/* SPDX-License-Identifier: MIT */
#include "vm.h"

int main(void)
{
	return done_testing();
}
