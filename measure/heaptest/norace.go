//go:build !race

package heaptest

const race = false
