// Package verify is attestd's judgement: bytes in, verdict out. It does no I/O, sees no TPM, keeps no state.
//
// A server calls [Site.Challenge] for M1, [Site.Verify] for M3 and then [Verdict.Appraise]; between the messages lies
// only the cookie. What is left to the server is to claim the cookie and to write the audit record in one
// transaction, and then [NewRelease].
//
// They check in a fixed order, and the first failure is the verdict:
//
//  1. M3, M1 and M2 are messages for this site; the cookie is authentic and fresh, it is for this M1, and M2 asked for
//     what the cookie says. Against replay, against challenges of other sites, against a device that asks itself.
//  2. The quote is TPM-generated (magic), is a quote (type), has T as extraData, and covers exactly the PCRs and the
//     bank of the challenge. Against certify or NV blobs in the quote's place, other PCRs, resettable PCRs, other banks.
//  3. The EK has one of the TCG's templates, AK and agent key have the site's templates with the release key's policy
//     in them; no key is weak. Against software keys with other attributes and keys whose use no one approves.
//  4. The AK signed the quote, with the scheme of its template.
//  5. The PCR values that came with it have the quote's digest.
//  6. The AK certified the agent key, with T as extraData.
//  7. Both logs parse, firmware wrote nothing to our PCRs and we nothing to firmware's, and replay gives every quoted
//     value. Against an edited log, and against events that systemd-stub or an OS put where the loader's belong.
//  8. The markers in the image PCR fit the phase: none at boot, one cap at the very end for a renewal.
//  9. The appraisal policy agrees.
//
// That AK and EK live in one TPM is not shown by any of this: no one but the TPM can show it, by opening the credential
// in M4. So M4 says nothing in clear that is worth having, and enrolment waits for M5.
//
// A [Verdict] carries the verified values. Raw evidence is not looked at again.
package verify
