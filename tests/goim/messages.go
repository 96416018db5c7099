package main

import "reflect"

// XXX_NoUnkeyedLiteral makes a message of the struct that embeds it: golang/protobuf leaves a field of this name out.
type XXX_NoUnkeyedLiteral struct{}

func (*XXX_NoUnkeyedLiteral) Reset()         {}
func (*XXX_NoUnkeyedLiteral) String() string { return "" }
func (*XXX_NoUnkeyedLiteral) ProtoMessage()  {}

// Proto is goim.protocol.Proto.
type Proto struct {
	XXX_NoUnkeyedLiteral
	Ver  int32  `protobuf:"varint,1,opt,proto3"`
	Op   int32  `protobuf:"varint,2,opt,proto3"`
	Seq  int32  `protobuf:"varint,3,opt,proto3"`
	Body []byte `protobuf:"bytes,4,opt,proto3"`
}

// PushMsg is goim.logic.PushMsg, the value of a record in Kafka.
type PushMsg struct {
	XXX_NoUnkeyedLiteral
	Type      int32    `protobuf:"varint,1,opt,proto3"`
	Operation int32    `protobuf:"varint,2,opt,proto3"`
	Speed     int32    `protobuf:"varint,3,opt,proto3"`
	Server    string   `protobuf:"bytes,4,opt,proto3"`
	Room      string   `protobuf:"bytes,5,opt,proto3"`
	Keys      []string `protobuf:"bytes,6,rep,proto3"`
	Msg       []byte   `protobuf:"bytes,7,opt,proto3"`
}

type pushMsgReq struct {
	XXX_NoUnkeyedLiteral
	Keys    []string `protobuf:"bytes,1,rep,proto3"`
	Proto   *Proto   `protobuf:"bytes,2,opt,proto3"`
	ProtoOp int32    `protobuf:"varint,3,opt,proto3"`
}

type broadcastReq struct {
	XXX_NoUnkeyedLiteral
	ProtoOp int32  `protobuf:"varint,1,opt,proto3"`
	Proto   *Proto `protobuf:"bytes,2,opt,proto3"`
	Speed   int32  `protobuf:"varint,3,opt,proto3"`
}

type broadcastRoomReq struct {
	XXX_NoUnkeyedLiteral
	RoomID string `protobuf:"bytes,1,opt,proto3"`
	Proto  *Proto `protobuf:"bytes,2,opt,proto3"`
}

type roomsReply struct {
	XXX_NoUnkeyedLiteral
	Rooms map[string]bool `protobuf:"bytes,1,rep,proto3" protobuf_key:"bytes,1,opt,proto3" protobuf_val:"varint,2,opt,proto3"`
}

type connectReq struct {
	XXX_NoUnkeyedLiteral
	Server string `protobuf:"bytes,1,opt,proto3"`
	Cookie string `protobuf:"bytes,2,opt,proto3"`
	Token  []byte `protobuf:"bytes,3,opt,proto3"`
}

type connectReply struct {
	XXX_NoUnkeyedLiteral
	Mid       int64   `protobuf:"varint,1,opt,proto3"`
	Key       string  `protobuf:"bytes,2,opt,proto3"`
	RoomID    string  `protobuf:"bytes,3,opt,proto3"`
	Accepts   []int32 `protobuf:"varint,4,rep,packed,proto3"`
	Heartbeat int64   `protobuf:"varint,5,opt,proto3"`
}

// sessionReq is both DisconnectReq and HeartbeatReq.
type sessionReq struct {
	XXX_NoUnkeyedLiteral
	Mid    int64  `protobuf:"varint,1,opt,proto3"`
	Key    string `protobuf:"bytes,2,opt,proto3"`
	Server string `protobuf:"bytes,3,opt,proto3"`
}

type disconnectReply struct {
	XXX_NoUnkeyedLiteral
	Has bool `protobuf:"varint,1,opt,proto3"`
}

type onlineReq struct {
	XXX_NoUnkeyedLiteral
	Server    string           `protobuf:"bytes,1,opt,proto3"`
	RoomCount map[string]int32 `protobuf:"bytes,2,rep,proto3" protobuf_key:"bytes,1,opt,proto3" protobuf_val:"varint,2,opt,proto3"`
}

type onlineReply struct {
	XXX_NoUnkeyedLiteral
	AllRoomCount map[string]int32 `protobuf:"bytes,1,rep,proto3" protobuf_key:"bytes,1,opt,proto3" protobuf_val:"varint,2,opt,proto3"`
}

type receiveReq struct {
	XXX_NoUnkeyedLiteral
	Mid   int64  `protobuf:"varint,1,opt,proto3"`
	Proto *Proto `protobuf:"bytes,2,opt,proto3"`
}

type nodesReq struct {
	XXX_NoUnkeyedLiteral
	Platform string `protobuf:"bytes,1,opt,proto3"`
	ClientIP string `protobuf:"bytes,2,opt,proto3"`
}

type nodesReply struct {
	XXX_NoUnkeyedLiteral
	Domain       string   `protobuf:"bytes,1,opt,proto3"`
	TCPPort      int32    `protobuf:"varint,2,opt,proto3"`
	WSPort       int32    `protobuf:"varint,3,opt,proto3"`
	WSSPort      int32    `protobuf:"varint,4,opt,proto3"`
	Heartbeat    int32    `protobuf:"varint,5,opt,proto3"`
	Nodes        []string `protobuf:"bytes,6,rep,proto3"`
	Backoff      *backoff `protobuf:"bytes,7,opt,proto3"`
	HeartbeatMax int32    `protobuf:"varint,8,opt,proto3"`
}

type backoff struct {
	XXX_NoUnkeyedLiteral
	MaxDelay  int32   `protobuf:"varint,1,opt,proto3"`
	BaseDelay int32   `protobuf:"varint,2,opt,proto3"`
	Factor    float32 `protobuf:"fixed32,3,opt,proto3"`
	Jitter    float32 `protobuf:"fixed32,4,opt,proto3"`
}

type empty struct{ XXX_NoUnkeyedLiteral }

// method is one call of a service: what is asked and what is answered.
type method struct {
	name       string
	req, reply interface{}
}

// fresh gives a pointer to a new message of the kind of this one.
func fresh(message interface{}) interface{} { return reflect.New(reflect.TypeOf(message)).Interface() }

// services are goim's two, without the methods that goim-example has no more.
var services = map[string][]method{
	"comet": {
		{"PushMsg", pushMsgReq{}, empty{}},
		{"Broadcast", broadcastReq{}, empty{}},
		{"BroadcastRoom", broadcastRoomReq{}, empty{}},
		{"Rooms", empty{}, roomsReply{}},
	},
	"logic": {
		{"Connect", connectReq{}, connectReply{}},
		{"Disconnect", sessionReq{}, disconnectReply{}},
		{"Heartbeat", sessionReq{}, empty{}},
		{"RenewOnline", onlineReq{}, onlineReply{}},
		{"Receive", receiveReq{}, empty{}},
		{"Nodes", nodesReq{}, nodesReply{}},
	},
}

// serviceNames are the names on the wire.
var serviceNames = map[string]string{"comet": "goim.comet.Comet", "logic": "goim.logic.Logic"}
