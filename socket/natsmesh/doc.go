// Package natsmesh joins brokers on many hosts to one, over NATS: a request that finds no provider at the broker of its
// consumer is answered by a provider of another broker.
//
//	mesh, err := natsmesh.New(natsmesh.Config{URL: "nats://10.0.0.1:4222,nats://10.0.0.2:4222"})
//	server := socket.NewServer("9090", socket.WithMesh(mesh))
//	err = server.Start()
//
// Everything that holds for one broker holds for all of them: errors, deadlines, credit, the isolation of channels. A
// broker works without NATS too, with the providers that it has. Whoever may publish to the mesh's subjects is trusted: keep
// them in an account of their own. docs/mesh.md has the protocol.
package natsmesh
