package osimage

import (
	"fmt"
	"strconv"
)

// AnnotationVersion is an annotation of an image's manifest: the image's version
// for the rollback floor, a decimal number of at least 1 that grows with every
// release. The manifest's digest covers it, so a signature of the image is one of its
// version too. One in an index means nothing: an image's identity is the digest of its
// platform's manifest.
const AnnotationVersion = "dev.sealboot.image-version"

// MaxVersion is the largest version that an image can have, which is that of the
// other versions in a rollback floor.
const MaxVersion = 1<<48 - 1

// Version is the version that a manifest gives to its image; 0 if it gives none.
func Version(manifest []byte) (uint64, error) {
	m, err := parseManifest(manifest)
	if err != nil {
		return 0, err
	}
	return VersionOf(m.Annotations)
}

// VersionOf reads the version among the annotations of a manifest; it is 0 if there
// is none. A number has one form only, so that people and programs read the same.
func VersionOf(annotations map[string]string) (uint64, error) {
	text, ok := annotations[AnnotationVersion]
	if !ok {
		return 0, nil
	}
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil || v == 0 || v > MaxVersion || FormatVersion(v) != text {
		return 0, fmt.Errorf("%w: annotation %s is %.40q, want a decimal number from 1 to %d", ErrInvalid, AnnotationVersion, text, uint64(MaxVersion))
	}
	return v, nil
}

// FormatVersion is the annotation's value for a version.
func FormatVersion(v uint64) string { return strconv.FormatUint(v, 10) }
