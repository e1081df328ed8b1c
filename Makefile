# Meson does the work; these are the commands to remember. Nothing here is silent about a failure.
B ?= build
RUN_ARGS ?= -m 512M -p "console=ttyS0 quiet panic=-1"
.PHONY: all run check check-long check-tsan bench fmt where guest clean
all: $(B)/build.ninja
	@ninja -C $(B) --quiet
$(B)/build.ninja:
	@tools/deps build
	@meson setup $(B) >$(B).log 2>&1 && rm -f $(B).log || { cat $(B).log >&2; rm -f $(B).log; exit 1; }
guest: all
	@tools/deps guest
	@tools/guest $(B)/guest
run: guest
	@exec $(B)/casement run -k $(B)/guest/vmlinuz -i $(B)/guest/initrd.img $(RUN_ARGS)
check check-long check-tsan:
	@tools/$(subst -, --,$@) $(B)
bench: guest
	@tools/deps bench
	@bench/run $(B)
fmt:
	@tools/deps fmt
	@git ls-files 'src/*.[ch]' 'test/*.[ch]' 'include/*.h' 'bench/*.[ch]' | xargs clang-format -i
where:
	@tools/where "$(X)"
clean:
	@rm -rf $(B) $(B)-asan $(B)-tsan
