// SPDX-License-Identifier: MIT

// A KVM client in Go, run by `casement with --trap`: two vCPUs in endless loops on locked threads, kicked out of them
// again and again, while other goroutines make garbage, compute and start programs. Exit status 0: all was right.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	getAPIVersion = 0xae00
	createVM      = 0xae01
	vcpuMmapSize  = 0xae04
	createVCPU    = 0xae41
	setMemory     = 0x4020ae46
	run           = 0xae80
	setRegs       = 0x4090ae82
	getSregs      = 0x8138ae83
	setSregs      = 0x4138ae84
	exitIO        = 2
	kicks         = 20
)

type memoryRegion struct {
	slot, flags            uint32
	guest, size, userspace uint64
}

type vcpu struct {
	fd, tid int
	run     []byte
	out     int32
	kicked  int32
}

var stop int32

func check(what string, err error) {
	if err != nil {
		fmt.Println(what, err)
		os.Exit(1)
	}
}

func ioctl(fd int, request, arg uintptr) (int, error) {
	r, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, arg)
	if e != 0 {
		return -1, e
	}
	return int(r), nil
}

func must(fd int, request, arg uintptr) int {
	r, err := ioctl(fd, request, arg)
	check(fmt.Sprintf("ioctl %#x:", request), err)
	return r
}

// mov $'A'+n, %al; out %al, $0x10; 1: inc %ebx; jmp 1b
func newVCPU(sys, vm, n int, ram []byte) *vcpu {
	v := &vcpu{fd: must(vm, createVCPU, uintptr(n))}
	size := must(sys, vcpuMmapSize, 0)
	var err error
	v.run, err = syscall.Mmap(v.fd, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	check("mmap:", err)
	copy(ram[n*256:], []byte{0xb0, byte('A' + n), 0xe6, 0x10, 0x66, 0x43, 0xeb, 0xfc})
	var sregs [312]byte
	must(v.fd, getSregs, uintptr(unsafe.Pointer(&sregs)))
	for i := 0; i < 8; i++ { // cs.base
		sregs[i] = 0
	}
	sregs[12], sregs[13] = 0, 0 // cs.selector
	must(v.fd, setSregs, uintptr(unsafe.Pointer(&sregs)))
	var regs [18]uint64
	regs[16], regs[17] = uint64(n*256), 2 // rip, rflags
	must(v.fd, setRegs, uintptr(unsafe.Pointer(&regs)))
	return v
}

func (v *vcpu) loop(n int, started chan<- int, done *sync.WaitGroup) {
	runtime.LockOSThread()
	defer done.Done()
	v.tid = syscall.Gettid()
	started <- n
	for atomic.LoadInt32(&stop) == 0 {
		_, err := ioctl(v.fd, run, 0)
		if err == syscall.EINTR {
			atomic.AddInt32(&v.kicked, 1)
			continue
		}
		check("KVM_RUN:", err)
		reason := *(*uint32)(unsafe.Pointer(&v.run[8]))
		offset := *(*uint64)(unsafe.Pointer(&v.run[40]))
		if reason != exitIO || v.run[offset] != byte('A'+n) {
			fmt.Println("vCPU", n, "exit", reason)
			os.Exit(1)
		}
		atomic.AddInt32(&v.out, 1)
	}
}

func kick(tid int) {
	syscall.Syscall(syscall.SYS_TGKILL, uintptr(syscall.Getpid()), uintptr(tid), uintptr(syscall.SIGUSR1))
}

func sum() [32]byte {
	block := make([]byte, 1<<16)
	for i := range block {
		block[i] = byte(i * 7)
	}
	return sha256.Sum256(block)
}

func churn(want [32]byte, done *sync.WaitGroup) {
	defer done.Done()
	for i := 0; atomic.LoadInt32(&stop) == 0; i++ {
		if sum() != want {
			fmt.Println("a checksum is wrong")
			os.Exit(1)
		}
		if i%8 == 0 {
			runtime.GC()
		}
		runtime.Gosched()
	}
}

func recovers() (good bool) {
	defer func() { good = recover() != nil }()
	var p *int
	*p = 1
	return false
}

func main() {
	sys, err := syscall.Open("/dev/kvm", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	check("/dev/kvm:", err)
	if v := must(sys, getAPIVersion, 0); v != 12 {
		check("version:", fmt.Errorf("%d", v))
	}
	vm := must(sys, createVM, 0)
	ram, err := syscall.Mmap(-1, 0, 65536, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_ANON)
	check("mmap:", err)
	region := memoryRegion{size: 65536, userspace: uint64(uintptr(unsafe.Pointer(&ram[0])))}
	must(vm, setMemory, uintptr(unsafe.Pointer(&region)))
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR1)

	var vcpus, others sync.WaitGroup
	started := make(chan int)
	v := []*vcpu{newVCPU(sys, vm, 0, ram), newVCPU(sys, vm, 1, ram)}
	for n := range v {
		vcpus.Add(1)
		go v[n].loop(n, started, &vcpus)
		<-started
	}
	want := sum()
	for i := 0; i < 3; i++ {
		others.Add(1)
		go churn(want, &others)
	}
	for n := range v {
		for atomic.LoadInt32(&v[n].out) == 0 {
			time.Sleep(time.Millisecond)
		}
		for i := 0; i < kicks; i++ {
			before := atomic.LoadInt32(&v[n].kicked)
			for atomic.LoadInt32(&v[n].kicked) == before {
				kick(v[n].tid)
				time.Sleep(200 * time.Microsecond)
			}
		}
	}
	out, err := exec.Command("/bin/sh", "-c", "echo started").Output()
	check("exec:", err)
	if string(out) != "started\n" || !recovers() {
		check("", fmt.Errorf("not as it should be: %q", out))
	}
	atomic.StoreInt32(&stop, 1)
	ended := make(chan bool)
	go func() {
		vcpus.Wait()
		others.Wait()
		close(ended)
	}()
	for done := false; !done; {
		select {
		case <-ended:
			done = true
		case <-time.After(time.Millisecond): // the last kick may have come before KVM_RUN
			kick(v[0].tid)
			kick(v[1].tid)
		}
	}
	if v[0].out != 1 || v[1].out != 1 {
		check("", fmt.Errorf("letters: %d %d", v[0].out, v[1].out))
	}
}
