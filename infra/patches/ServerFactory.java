// The change to Beam 2.70.0, sdks/java/core:
// org.apache.beam.sdk.fn.server.ServerFactory.InetSocketAddressServerFactory.createServer
//
// javap -c before and after:
//   -  1: invokevirtual InetSocketAddress.getPort:()I
//   -  4: invokestatic  NettyServerBuilder.forPort:(I)LNettyServerBuilder;
//   +  1: nop nop nop
//   +  4: invokestatic  NettyServerBuilder.forAddress:(Ljava/net/SocketAddress;)LNettyServerBuilder;
//
// The three nops keep every later instruction, jump and stack map frame at its offset.

private static Server createServer(List<BindableService> services, InetSocketAddress socket)
    throws IOException {
  NettyServerBuilder builder =
      // Original: NettyServerBuilder.forPort(socket.getPort())
      NettyServerBuilder.forAddress(socket)
          .maxInboundMessageSize(Integer.MAX_VALUE)
          .permitKeepAliveTime(KEEP_ALIVE_TIME_SEC, TimeUnit.SECONDS);
  // ... unchanged from here on
}
