// Package zstd enters zstd streams in the middle.
package zstd

const format = "zstd"
