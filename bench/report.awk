# SPDX-License-Identifier: MIT
# usage: awk -v json=FILE -v svg=FILE … -f report.awk NAMES COUNTS RAW
# NAMES: "group name"; COUNTS: "name instructions"; RAW: "system run name host guest checksum" as bench/run leaves it.
FNR == 1 { file++ }
file == 1 { n++; group[n] = $1; name[n] = $2; if (!($1 in seen)) { seen[$1] = ++groups; gname[groups] = $1 } next }
/^#/ { next }
NF == 2 { count[$1] = $2; next }
$3 ~ /^=/ { add($1, substr($3, 2), $4); next }
$3 ~ /^[@!]/ { next }
NF == 6 {
	add($1, $3, $4)
	clock($1, $3, $4, $5)
	if (!($3 in sum))
		sum[$3] = $6
	else if (sum[$3] != $6)
		wrong = wrong sprintf("  %s %s run %d: %s, elsewhere %s\n", $1, $3, $2, $6, sum[$3])
}
END {
	printf "%-14s %-8s %9s %9s %9s %9s %9s %8s\n", "workload", "group", "native s", "tcg s", "casement s", "cas/nat", "tcg/cas", "spread"
	printf "{\n  \"host\": \"%s\", \"qemu\": \"%s\", \"casement\": \"%s\", \"options\": \"%s\",\n  \"rows\": [", host, qemu, version, options >json
	for (i = 1; i <= n; i++) {
		w = name[i]
		nat = median("native", w)
		t1 = median("tcg-max", w); t2 = median("tcg-qemu64", w)
		tcg = t2 && (!t1 || t2 < t1) ? t2 : t1
		cas = median("casement", w)
		spread = range("casement", w, cas)
		N[i] = nat; T[i] = tcg; C[i] = cas; at[w] = i
		printf "%-14s %-8s %9s %9s %9s %9s %9s %8s\n", w, group[i], show(nat, "%.4f"), show(tcg, "%.4f"),
			show(cas, "%.4f"), show(ratio(cas, nat), "%.1f"), show(ratio(tcg, cas), "%.2f"),
			cas ? sprintf("%.0f %%", 100 * spread) : "-"
		printf("%s\n    {\"name\": \"%s\", \"group\": \"%s\", \"native\": %.6f, \"tcg\": %.6f, \"casement\": %.6f, \"tcg_max\": %.6f, \"tcg_qemu64\": %.6f, \"spread\": %.4f}",
			i > 1 ? "," : "", w, group[i], nat, tcg, cas, t1, t2, spread) >json
		g = group[i]
		if (cas && nat) { lcn[g] += log(cas / nat); ncn[g]++ }
		if (cas && tcg) { ltc[g] += log(tcg / cas); ntc[g]++ }
		if (tcg && nat) { ltn[g] += log(tcg / nat); ntn[g]++ }
		if (spread > worst[g]) worst[g] = spread
		if (w in count && cas) { instructions += count[w]; time += cas; nattime += nat; tcgtime += tcg }
	}
	print "\n  ]\n}" >json
	print "\ngeometric means    cas/nat   tcg/nat   tcg/cas  worst spread"
	for (i = 1; i <= groups; i++) {
		g = gname[i]
		printf "%-16s %9s %9s %9s %9s\n", g, show(mean(lcn[g], ncn[g]), "%.1f"), show(mean(ltn[g], ntn[g]), "%.1f"),
			show(mean(ltc[g], ntc[g]), "%.2f"), ncn[g] + ntc[g] ? sprintf("%.0f %%", 100 * worst[g]) : "-"
	}
	print "(tcg/cas above 1: casement is the faster one)"
	ratio_lines()
	if (instructions)
		printf "\ninteger set: %.0f million instructions; casement %.0f MIPS, tcg %s, native %s\n", instructions / 1e6,
			instructions / time / 1e6, show(ratio(instructions, tcgtime) / 1e6, "%.0f"), show(ratio(instructions, nattime) / 1e6, "%.0f")
	for (k in marked)
		if (!(k in agreed) && k !~ /^native/)
			late = late sprintf("  %s: by %.1f ms at least\n", k, 1e3 * closest[k])
	for (k in host_sum)
		off[k] = diff(host_sum[k], guest_sum[k]) / host_sum[k]
	for (k in host_sum) {
		clock_line = clock_line sprintf(" %s %.2f %%", k, 100 * off[k])
		if (k != "native" && off[k] > 0.01 + off["native"])
			clocks = clocks sprintf("  %s: by %.1f %% of the whole\n", k, 100 * off[k])
	}
	if (clock_line)
		printf "\nguest clock against host clock:%s\n", clock_line
	if (clocks)
		printf "CLOCKS that differ by more than 1 %%:\n%s", clocks
	if (late)
		printf "rows whose marks came late in every run (a busy host):\n%s", late
	if (wrong)
		printf "\nWRONG RESULTS:\n%s", wrong
	chart()
	if (wrong || clocks ~ /casement/)
		exit 1
}

# Figures that are not times of equal work.
function ratio_lines(   s, port) {
	port = median("casement", "port") / 1e5
	if (port)
		printf "\nport read answered by the monitor: casement %.0f ns, tcg %.0f ns\n", 1e9 * port, 1e4 * T[at["port"]]
	s = median("casement", "exit-in")
	if (s)
		printf "KVM_RUN and back with KVM_EXIT_IO: in %.0f ns, out %.0f ns, with vector state %.0f ns\n", 1e9 * s,
			1e9 * median("casement", "exit-out"), 1e9 * median("casement", "exit-vector")
	s = median("casement", "l2-cpuid")
	if (s)
		printf "CPUID of L2, to L1 and back: %.2f us with a minimal L1, %s us with Linux's KVM; integer speed of L2: %.2f of L1's\n",
			1e6 * s, show(1e6 * median("casement", "l2-cpuid-kvm"), "%.1f"),
			ratio(median("casement", "l1-int"), median("casement", "l2-int"))
	s = at["smp-2threads"]
	if (s && C[s] && N[s])
		printf "speed-up by a second processor: native %.2f, tcg %s, casement %.2f\n", ratio(N[at["smp-1thread"]], N[s]),
			show(ratio(T[at["smp-1thread"]], T[s]), "%.2f"), ratio(C[at["smp-1thread"]], C[s])
}

# The guest's own clock and the host's must tell the same within 1 %: over all rows of a system. A busy host
# delays some mark now and then, so for single rows the run that agrees best counts. What the native runs show, where
# there is one clock only, is the error of the method.
function clock(sys, w, host_s, guest_s,   k, d) {
	k = sys " " w
	d = diff(host_s, guest_s)
	if (!(k in marked) || d < closest[k])
		closest[k] = d
	marked[k]
	if (d <= 0.01 * host_s + 0.002)
		agreed[k]
	host_sum[sys] += host_s
	guest_sum[sys] += guest_s
}
function add(sys, w, seconds) { v[sys, w, ++runs[sys, w]] = seconds + 0 }
function diff(a, b) { return a > b ? a - b : b - a }
function ratio(a, b) { return b ? a / b : 0 }
function mean(logs, k) { return k ? exp(logs / k) : 0 }
function show(x, form) { return x ? sprintf(form, x) : "-" }
function median(sys, w,   k, i, j, t, a) {
	k = runs[sys, w]
	if (!k)
		return 0
	for (i = 1; i <= k; i++) {
		t = v[sys, w, i]
		for (j = i - 1; j >= 1 && a[j] > t; j--)
			a[j + 1] = a[j]
		a[j + 1] = t
	}
	return k % 2 ? a[(k + 1) / 2] : (a[k / 2] + a[k / 2 + 1]) / 2
}
function range(sys, w, mid,   k, i, lo, hi) {
	k = runs[sys, w]
	for (i = 1; i <= k; i++) {
		if (i == 1 || v[sys, w, i] < lo) lo = v[sys, w, i]
		if (i == 1 || v[sys, w, i] > hi) hi = v[sys, w, i]
	}
	return mid ? (hi - lo) / mid : 0
}
# Bars of time over native time, on a logarithmic scale; boot, which has no native time, is left out.
function chart(   i, y, width, height, rows) {
	width = 860
	for (i = 1; i <= n; i++)
		if (N[i] && (T[i] || C[i]))
			rows++
	height = 60 + rows * 22
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"11\">\n", width, height >svg
	printf "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<text x=\"10\" y=\"16\" font-size=\"13\">Time relative to native (1 = native, shorter is better). %s, QEMU %s, Casement %s</text>\n", host, qemu, version >svg
	printf "<rect x=\"10\" y=\"24\" width=\"10\" height=\"8\" fill=\"#1f6f8b\"/><text x=\"24\" y=\"32\">casement</text><rect x=\"90\" y=\"24\" width=\"10\" height=\"8\" fill=\"#c9a227\"/><text x=\"104\" y=\"32\">QEMU TCG</text>\n" >svg
	for (i = 1; i <= 1000; i *= 10)
		printf "<line x1=\"%.0f\" x2=\"%.0f\" y1=\"42\" y2=\"%d\" stroke=\"#ddd\"/><text x=\"%.0f\" y=\"40\" fill=\"#666\">%d</text>\n", X(i), X(i), height - 8, X(i) + 2, i >svg
	y = 48
	for (i = 1; i <= n; i++) {
		if (!N[i] || !(T[i] || C[i]))
			continue
		printf "<text x=\"10\" y=\"%d\">%s: %s</text>\n", y + 13, group[i], name[i] >svg
		bar(y, C[i] / N[i], "#1f6f8b")
		bar(y + 9, T[i] / N[i], "#c9a227")
		y += 22
	}
	print "</svg>" >svg
}
function X(r) { return 150 + 220 * log(r < 1 ? 1 : r) / log(10) }
function bar(y, r, colour) {
	if (!r)
		return
	printf "<rect x=\"150\" y=\"%d\" width=\"%.1f\" height=\"8\" fill=\"%s\"/><text x=\"%.1f\" y=\"%d\" font-size=\"9\">%.1f</text>\n",
		y, X(r) - 150 + 1, colour, X(r) + 4, y + 8, r >svg
}
