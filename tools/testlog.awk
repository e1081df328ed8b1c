# SPDX-License-Identifier: MIT
# Turns Meson's testlog.txt into one stream of TAP: the test's own points with its name in front of them. A test
# that ended badly without saying so gets a failed point.
/^=+ [0-9]+\/[0-9]+ =+$/ { flush(); header = 1; section = ""; next }
/^=+$/ { flush(); next }
header && /^test: / { name = $2 }
header && /^duration: / { duration = $2 }
header && /^result: / { result = $0; sub(/^result: */, "", result) }
/^-+ stdout -+$/ { header = 0; section = "out"; points = 1; next }
/^-+ stderr -+$/ { header = 0; section = "err"; points = 1; next }
section == "out" && /^(not )?ok/ {
	if (/^not ok/ && !/# *TODO/)
		failed = 1
	sub(/^(not )?ok [0-9]*( - )?/, "&" name ": ")
	print
	next
}
section == "out" && /^1\.\.0/ { print "ok - " name " # SKIP " substr($0, index($0, "SKIP") + 5); next }
section == "out" && /^1\.\./ { planned = 1; next }
section == "out" && /^Bail out/ { result = $0; next }
section != "" { print "# " $0 }
END { flush(); print "1.." (any ? "n" : "0 # SKIP no tests") }

function flush() {
	if (name != "") {
		any = 1
		if (!failed && result !~ /exit status 0/)
			print "not ok - " name ": " result
		print "# " name " took " duration
	}
	name = section = ""
	header = failed = planned = 0
}
