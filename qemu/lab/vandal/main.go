// vandal is what a hostile operating system does to the rollback floor: it tries
// to write it, undefines it, defines it again and tries to write that.
// It runs as root in the lab's machine and prints what the TPM let it do.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/sealboot/sealboot/measure/floor"
	"github.com/sealboot/sealboot/measure/tpm"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("OK")
}

func run(ctx context.Context) error {
	t, err := tpm.Open(ctx, "/dev/tpmrm0")
	if err != nil {
		return err
	}
	defer t.Close()
	public, name, err := t.NVPublic(ctx, floor.Index)
	if err != nil {
		return err
	}
	if err := refused(ctx, t, "lower", name); err != nil {
		return err
	}
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.NVUndefineSpace{AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: floor.Index, Name: name}}).Execute(t.With(ctx)); err != nil {
		return fmt.Errorf("undefine: %w", err)
	}
	fmt.Println("undefine: done, as an owner may")
	public.Attributes.Written, public.Attributes.WriteLocked = false, false
	if _, err := (tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(*public)}).Execute(t.With(ctx)); err != nil {
		return fmt.Errorf("redefine: %w", err)
	}
	fmt.Println("redefine: done, as an owner may")
	if _, name, err = t.NVPublic(ctx, floor.Index); err != nil {
		return err
	}
	return refused(ctx, t, "write", name)
}

// refused tries every right to write that there is, and fails if one is granted.
func refused(ctx context.Context, t *tpm.TPM, what string, name tpm2.TPM2BName) error {
	policy := tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(s transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicyPCR{PolicySession: session, Pcrs: tpm.Selection(tpm2.TPMAlgSHA256, 12)}.Execute(s)
		return err
	})
	for _, as := range []struct {
		name string
		auth tpm2.AuthHandle
	}{
		{"the owner", tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}},
		{"the index", tpm2.AuthHandle{Handle: floor.Index, Name: name, Auth: tpm2.PasswordAuth(nil)}},
		{"the policy", tpm2.AuthHandle{Handle: floor.Index, Name: name, Auth: policy}},
	} {
		_, err := tpm2.NVWrite{
			AuthHandle: as.auth,
			NVIndex:    tpm2.NamedHandle{Handle: floor.Index, Name: name},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: make([]byte, 128)},
		}.Execute(t.With(ctx))
		if err == nil {
			return errors.New(what + " was granted to " + as.name)
		}
		fmt.Printf("%s as %s: refused: %v\n", what, as.name, err)
	}
	return nil
}
