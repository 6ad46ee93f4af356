package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// MaxNVSize is the largest NV index that [TPM.ReadNV] reads, in bytes. An EK
// certificate is one or two thousand.
const MaxNVSize = 16 << 10

// minNVBuffer is what every TPM reads at once, if it does not say more.
const minNVBuffer = 512

// ErrNoNV means that there is no such NV index, or that it was never written.
var ErrNoNV = errors.New("NV index does not exist or was never written")

// ErrNVAlgorithm means that an NV index has a Name by a digest algorithm that this package does not know.
var ErrNVAlgorithm = errors.New("NV index is named by an unknown algorithm")

// ReadNV returns the content of an ordinary NV index that can be read without a
// secret, such as an EK certificate. It is no more trustworthy than the bus.
func (t *TPM) ReadNV(ctx context.Context, index tpm2.TPMHandle) ([]byte, error) {
	data, err := t.readNV(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("read NV index %#x: %w", index, err)
	}
	return data, nil
}

func (t *TPM) readNV(ctx context.Context, index tpm2.TPMHandle) ([]byte, error) {
	pub, name, err := t.NVPublic(ctx, index)
	if err != nil {
		return nil, err
	}
	if !pub.Attributes.Written {
		return nil, ErrNoNV
	}
	if pub.DataSize > MaxNVSize {
		return nil, fmt.Errorf("it is %d bytes, more than %d", pub.DataSize, MaxNVSize)
	}
	auth := tpm2.AuthHandle{Handle: index, Name: name, Auth: tpm2.PasswordAuth(nil)}
	if !pub.Attributes.AuthRead {
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	}
	chunk := t.nvBuffer(ctx)
	data := make([]byte, 0, pub.DataSize)
	for len(data) < int(pub.DataSize) {
		want := min(chunk, int(pub.DataSize)-len(data))
		rsp, err := tpm2.NVRead{
			AuthHandle: auth,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: name},
			Size:       uint16(want),
			Offset:     uint16(len(data)),
		}.Execute(t.With(ctx))
		if err != nil {
			return nil, err
		}
		if len(rsp.Data.Buffer) != want {
			return nil, fmt.Errorf("%w: %d bytes instead of %d", errResponse, len(rsp.Data.Buffer), want)
		}
		data = append(data, rsp.Data.Buffer...)
	}
	return data, nil
}

// NVPublic returns the public area of an NV index and its Name, which is checked
// to be the digest of that public area. It fails with [ErrNoNV] if there is none. With [ErrNVAlgorithm] it returns both
// as the TPM says them, unchecked: enough to remove the index.
func (t *TPM) NVPublic(ctx context.Context, index tpm2.TPMHandle) (*tpm2.TPMSNVPublic, tpm2.TPM2BName, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.With(ctx))
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, tpm2.TPM2BName{}, ErrNoNV
	}
	if err != nil {
		return nil, tpm2.TPM2BName{}, err
	}
	pub, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, tpm2.TPM2BName{}, fmt.Errorf("%w: %w", errResponse, err)
	}
	if _, err := pub.NameAlg.Hash(); err != nil {
		return pub, rsp.NVName, fmt.Errorf("%w: %#04x", ErrNVAlgorithm, uint16(pub.NameAlg))
	}
	name, err := tpm2.NVName(pub)
	if err != nil {
		return nil, tpm2.TPM2BName{}, fmt.Errorf("%w: %w", errResponse, err)
	}
	if pub.NVIndex != index || string(name.Buffer) != string(rsp.NVName.Buffer) {
		return nil, tpm2.TPM2BName{}, fmt.Errorf("%w: the Name is not that of the public area", errResponse)
	}
	return pub, *name, nil
}

// nvBuffer returns how many bytes the TPM reads from NV at once.
func (t *TPM) nvBuffer(ctx context.Context) int {
	rsp, err := tpm2.GetCapability{
		Capability:    tpm2.TPMCapTPMProperties,
		Property:      uint32(tpm2.TPMPTNVBufferMax),
		PropertyCount: 1,
	}.Execute(t.With(ctx))
	if err != nil {
		return minNVBuffer
	}
	props, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || len(props.TPMProperty) != 1 || props.TPMProperty[0].Property != tpm2.TPMPTNVBufferMax {
		return minNVBuffer
	}
	// A response has to fit into maxResponseSize with its header.
	return int(min(max(props.TPMProperty[0].Value, 64), maxResponseSize/2))
}
