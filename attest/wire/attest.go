// Package wire defines the messages between a device and attestd, and every hash, signature, MAC and AEAD that
// binds them together. It knows nothing of TPMs, HTTP or policy: bytes in, bytes out.
//
// # The exchange
//
//	hello  device -> attestd  HelloRequest     a nonce
//	       device <- attestd  Hello            signed over the request: time, version last reported healthy
//	M1     device -> attestd  Request          who I am: Device, and a MAC with the join token if there is one
//	M2     device <- attestd  Challenge        signed over H(M1): cookie, nonce, which PCRs of which bank
//	M3     device -> attestd  Evidence         M1 and M2 as they were sent, quote, certification, logs
//	M4     device <- attestd  Release          signed over T: credential, approvals, encrypted Secrets
//	M5     device -> attestd  Ack              MAC with the key that only that TPM could recover
//
// T, the transcript, is SHA-256("sealboot/attest/v1" || H(M1) || H(M2)). The device puts it into the quote.
//
// # One message, one encoding
//
// Hashes cover the bytes as sent and received, never a re-encoding. So that two parties can never read the same
// bytes differently, [Unmarshal] accepts only the one encoding that [Marshal] produces: unknown and duplicate
// fields, other spellings of a name, white space, odd base64 and trailing bytes are all the same error.
//
// # What each binding closes
//
//   - [HashMessage] of M1 in the cookie and in M2's signature: an attacker cannot answer one device's request
//     with another's challenge, nor swap a key between M1 and M3.
//   - [Transcript] in the quote: a quote is good for one challenge of one device at one site, or for nothing.
//   - [Domain] in every signature: no signed message of one kind can be taken for another kind.
//   - The hash of the hello request in hello's signature: an old answer cannot turn the clock back.
//   - The cookie ([CookieKey]): attestd keeps nothing between M2 and M4 but the claim that a cookie was used.
//   - T and the decision in the [Sealer]'s associated data: secrets of one release cannot be put into another.
//   - [Device.Join] in M1: a join token proves knowledge of it without being sent.
package wire
