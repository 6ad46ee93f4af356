package fwlog

import "fmt"

// EventType says what an event is about; PFP 10.4.1. It is not covered by any
// digest.
type EventType uint32

// The types that occur in today's logs.
const (
	EventPrebootCert         EventType = 0x00
	EventPostCode            EventType = 0x01
	EventNoAction            EventType = 0x03
	EventSeparator           EventType = 0x04
	EventAction              EventType = 0x05
	EventTag                 EventType = 0x06
	EventSCRTMContents       EventType = 0x07
	EventSCRTMVersion        EventType = 0x08
	EventCPUMicrocode        EventType = 0x09
	EventPlatformConfigFlags EventType = 0x0a
	EventTableOfDevices      EventType = 0x0b
	EventCompactHash         EventType = 0x0c
	EventIPL                 EventType = 0x0d
	EventIPLPartitionData    EventType = 0x0e
	EventNonhostCode         EventType = 0x0f
	EventNonhostConfig       EventType = 0x10
	EventNonhostInfo         EventType = 0x11
	EventOmitBootDevice      EventType = 0x12
	EventPostCode2           EventType = 0x13

	EventEFIVariableDriverConfig EventType = 0x80000001
	EventEFIVariableBoot         EventType = 0x80000002
	EventEFIBootServicesApp      EventType = 0x80000003
	EventEFIBootServicesDriver   EventType = 0x80000004
	EventEFIRuntimeServices      EventType = 0x80000005
	EventEFIGPT                  EventType = 0x80000006
	EventEFIAction               EventType = 0x80000007
	EventEFIPlatformBlob         EventType = 0x80000008
	EventEFIHandoffTables        EventType = 0x80000009
	EventEFIPlatformBlob2        EventType = 0x8000000a
	EventEFIHandoffTables2       EventType = 0x8000000b
	EventEFIVariableBoot2        EventType = 0x8000000c
	EventEFIGPT2                 EventType = 0x8000000d
	EventEFIHCRTM                EventType = 0x80000010
	EventEFIVariableAuthority    EventType = 0x800000e0
	EventEFISPDMFirmwareBlob     EventType = 0x800000e1
	EventEFISPDMFirmwareConfig   EventType = 0x800000e2
)

var typeNames = map[EventType]string{
	EventPrebootCert:             "EV_PREBOOT_CERT",
	EventPostCode:                "EV_POST_CODE",
	EventNoAction:                "EV_NO_ACTION",
	EventSeparator:               "EV_SEPARATOR",
	EventAction:                  "EV_ACTION",
	EventTag:                     "EV_EVENT_TAG",
	EventSCRTMContents:           "EV_S_CRTM_CONTENTS",
	EventSCRTMVersion:            "EV_S_CRTM_VERSION",
	EventCPUMicrocode:            "EV_CPU_MICROCODE",
	EventPlatformConfigFlags:     "EV_PLATFORM_CONFIG_FLAGS",
	EventTableOfDevices:          "EV_TABLE_OF_DEVICES",
	EventCompactHash:             "EV_COMPACT_HASH",
	EventIPL:                     "EV_IPL",
	EventIPLPartitionData:        "EV_IPL_PARTITION_DATA",
	EventNonhostCode:             "EV_NONHOST_CODE",
	EventNonhostConfig:           "EV_NONHOST_CONFIG",
	EventNonhostInfo:             "EV_NONHOST_INFO",
	EventOmitBootDevice:          "EV_OMIT_BOOT_DEVICE_EVENTS",
	EventPostCode2:               "EV_POST_CODE2",
	EventEFIVariableDriverConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG",
	EventEFIVariableBoot:         "EV_EFI_VARIABLE_BOOT",
	EventEFIBootServicesApp:      "EV_EFI_BOOT_SERVICES_APPLICATION",
	EventEFIBootServicesDriver:   "EV_EFI_BOOT_SERVICES_DRIVER",
	EventEFIRuntimeServices:      "EV_EFI_RUNTIME_SERVICES_DRIVER",
	EventEFIGPT:                  "EV_EFI_GPT_EVENT",
	EventEFIAction:               "EV_EFI_ACTION",
	EventEFIPlatformBlob:         "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	EventEFIHandoffTables:        "EV_EFI_HANDOFF_TABLES",
	EventEFIPlatformBlob2:        "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	EventEFIHandoffTables2:       "EV_EFI_HANDOFF_TABLES2",
	EventEFIVariableBoot2:        "EV_EFI_VARIABLE_BOOT2",
	EventEFIGPT2:                 "EV_EFI_GPT_EVENT2",
	EventEFIHCRTM:                "EV_EFI_HCRTM_EVENT",
	EventEFIVariableAuthority:    "EV_EFI_VARIABLE_AUTHORITY",
	EventEFISPDMFirmwareBlob:     "EV_EFI_SPDM_FIRMWARE_BLOB",
	EventEFISPDMFirmwareConfig:   "EV_EFI_SPDM_FIRMWARE_CONFIG",
}

// String returns the name that the specification gives the type.
func (t EventType) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("%#08x", uint32(t))
}
