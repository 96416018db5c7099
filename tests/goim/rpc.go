package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// called is a call that a server got, and how it was compressed.
type called struct {
	Method   string
	Req      interface{}
	Encoding string
}

// encodings notes in the context of each call how it was compressed.
type encodings struct{}

func (encodings) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, encodings{}, new(string))
}

func (encodings) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if header, is := event.(*stats.InHeader); is {
		*ctx.Value(encodings{}).(*string) = header.Compression
	}
}

func (encodings) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (encodings) HandleConn(context.Context, stats.ConnStats)                       {}

// serve serves until the input ends. A method without a reply in replies answers with an empty one.
func serve(service, replies string, input *json.Decoder) {
	var given map[string]json.RawMessage
	check(json.Unmarshal([]byte(replies), &given))
	description := grpc.ServiceDesc{ServiceName: serviceNames[service], HandlerType: (*interface{})(nil)}
	for _, method := range services[service] {
		method := method
		handler := func(_ interface{}, ctx context.Context, decode func(interface{}) error, _ grpc.UnaryServerInterceptor) (interface{}, error) {
			req, reply := fresh(method.req), fresh(method.reply)
			if err := decode(req); err != nil {
				return nil, err
			}
			say(called{method.name, req, *ctx.Value(encodings{}).(*string)})
			// As goim's logic does: who says who they are is believed, and no JSON is an error without a code.
			if login, is := req.(*connectReq); is {
				device := struct{ Key string }{}
				if json.Unmarshal(login.Token, &device) != nil {
					return nil, errors.New("the token is no JSON")
				}
				reply.(*connectReply).Key = device.Key
			}
			if text, is := given[method.name]; is {
				check(json.Unmarshal(text, reply))
			}
			return reply, nil
		}
		description.Methods = append(description.Methods, grpc.MethodDesc{MethodName: method.name, Handler: handler})
	}
	keep := keepalive.ServerParameters{
		MaxConnectionIdle:     time.Minute,
		MaxConnectionAge:      2 * time.Hour,
		MaxConnectionAgeGrace: 20 * time.Second,
		Time:                  time.Minute,
		Timeout:               20 * time.Second,
	}
	server := grpc.NewServer(grpc.KeepaliveParams(keep), grpc.StatsHandler(encodings{}))
	server.RegisterService(&description, struct{}{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	say(struct{ Address string }{listener.Addr().String()})
	go func() { check(server.Serve(listener)) }()
	hear(input, new(struct{}))
}

// answered is what became of a call: its code by number, 0 for success.
type answered struct {
	Code  uint32
	Words string
	Reply interface{}
}

// call makes a call for each line until the input ends, all on one connection.
func call(service, address string, input *json.Decoder) {
	options := []grpc.DialOption{
		grpc.WithInsecure(),
		grpc.WithInitialWindowSize(1 << 24),
		grpc.WithInitialConnWindowSize(1 << 24),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 24)),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1 << 24)),
		grpc.WithBackoffMaxDelay(3 * time.Second),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                10 * time.Second,
			Timeout:             3 * time.Second,
			PermitWithoutStream: true,
		}),
	}
	target := address
	if service == "logic" {
		// Found by a name that becomes the authority, slashes and all.
		found, _ := manual.GenerateAndRegisterManualResolver()
		found.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: address}}})
		target = found.Scheme() + "://default/goim.logic/prod/sh"
		options = append(options, grpc.WithBalancerName(roundrobin.Name))
	}
	connection, err := grpc.Dial(target, options...)
	check(err)
	for {
		var line struct {
			Method string
			Req    json.RawMessage
		}
		if !hear(input, &line) {
			return
		}
		for _, method := range services[service] {
			if method.name == line.Method {
				req, reply := fresh(method.req), fresh(method.reply)
				check(json.Unmarshal(line.Req, req))
				var more []grpc.CallOption
				if method.name == "RenewOnline" {
					more = append(more, grpc.UseCompressor(gzip.Name))
				}
				path := "/" + serviceNames[service] + "/" + method.name
				err := connection.Invoke(context.Background(), path, req, reply, more...)
				say(answered{uint32(status.Code(err)), status.Convert(err).Message(), reply})
			}
		}
	}
}
